"""When an image is built again, and with what."""

from pathlib import Path

import pytest

from devcluster.build_images import IMAGES, ImageBuild, build_command, copied_sources, digest_inputs

BUILD = ImageBuild("localhost/x:dev", "Containerfile")
RECIPE = """
FROM base AS one
COPY pyproject.toml uv.lock ./
COPY --from=other /opt/venv /opt/venv
copy --chown=1:1 \\
     src /opt/src
RUN echo COPY nothing /here
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "Containerfile").write_text(RECIPE)
    (tmp_path / "src/__pycache__").mkdir(parents=True)
    for name in ("pyproject.toml", "uv.lock", "README.md", "src/code.py", "src/__pycache__/code.pyc"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_only_what_comes_from_the_repository_counts_as_an_input() -> None:
    assert copied_sources(RECIPE) == ["pyproject.toml", "src", "uv.lock"]


@pytest.mark.parametrize(
    ("changed", "is_another"),
    [
        pytest.param("src/code.py", True, id="code"),
        pytest.param("uv.lock", True, id="a dependency"),
        pytest.param("Containerfile", True, id="the recipe"),
        pytest.param("README.md", False, id="a document"),
        pytest.param("src/__pycache__/code.pyc", False, id="a compiled file"),
    ],
)
def test_an_image_is_built_again_when_an_input_changed(
    repository: Path, changed: str, is_another: bool
) -> None:
    before = digest_inputs(BUILD, repository, "base")
    with (repository / changed).open("a") as stream:
        stream.write("# changed\n")
    assert (digest_inputs(BUILD, repository, "base") != before) is is_another


def test_another_base_target_or_file_name_is_another_image(repository: Path) -> None:
    before = digest_inputs(BUILD, repository, "base")
    assert digest_inputs(BUILD, repository, "another base") != before
    assert digest_inputs(ImageBuild(BUILD.name, BUILD.containerfile, "one"), repository, "base") != before
    (repository / "src/code.py").rename(repository / "src/renamed.py")
    assert digest_inputs(BUILD, repository, "base") != before


def test_the_machines_settings_are_mounted_and_not_copied(repository: Path) -> None:
    command = build_command(
        ImageBuild("n", "Containerfile", "one"), repository, "b", "d", ["/etc/x:/etc/x:ro", "/c:/mnt"]
    )
    words = [str(word) for word in command]
    assert words[words.index("--volume") + 1] == "/etc/x:/etc/x:ro"
    assert words.count("--volume") == 2
    assert words[words.index("--target") + 1] == "one"
    assert words[words.index("--build-arg") + 1] == "BASE=b"


@pytest.mark.parametrize("build", IMAGES, ids=lambda build: build.name)
def test_the_projects_own_recipes_name_files_that_exist(build: ImageBuild) -> None:
    repository = Path(__file__).parents[3]
    sources = copied_sources((repository / build.containerfile).read_text())
    assert sources
    assert [source for source in sources if not (repository / source).exists()] == []
