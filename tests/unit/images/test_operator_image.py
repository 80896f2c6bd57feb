"""The operator's image stays small and holds nothing to build or to train with; `make bench-operator` weighs the real one."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
CONTAINERFILE = ROOT / "images/operator/Containerfile"
MIB = 2**20
# Of the 300 MiB that the image may weigh, Python's slim base takes about 130 and bytecode about 40.
MOST_PACKAGE_MIB = 125
NOT_THE_OPERATORS = re.compile(
    r"torch|transformers|tokenizers|peft|trl|deepspeed|triton|nvidia-.*|numpy|safetensors|boto.*|s3transfer|"
    r"setuptools|pip|wheel|ninja|cmake|cython|maturin|pytest.*|mypy|ruff"
)


def installed_packages() -> set[str]:
    """What `uv sync --extra operator` installs, by uv.lock."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    packages: dict[str, dict[str, Any]] = {each["name"]: each for each in lock["package"]}
    project = packages["finetune-operator"]
    waiting = [*project["dependencies"], *project["optional-dependencies"]["operator"]]
    found = set[str]()
    while waiting:
        package = packages[waiting.pop()["name"]]
        if package["name"] not in found:
            found.add(package["name"])
            waiting += package.get("dependencies", ())
    return found


def size_bytes(package: str) -> int:
    """Bytes of a package as it is installed here; of one for other platforms, 0."""
    try:
        files = importlib.metadata.distribution(package).files or ()
    except importlib.metadata.PackageNotFoundError:
        return 0
    paths = (Path(str(file.locate())) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file())


def final_stage() -> list[str]:
    """The instructions of the image itself, after the stages that only build."""
    text = re.sub(r"^\s*#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    last = max(index for index, line in enumerate(lines) if line.startswith("FROM "))
    return [line.strip() for line in lines[last:] if line.strip()]


def test_nothing_to_train_to_store_or_to_build_with_is_installed() -> None:
    packages = installed_packages()
    assert {"kopf", "kubernetes", "pydantic"} <= packages
    assert sorted(name for name in packages if NOT_THE_OPERATORS.fullmatch(name)) == []


def test_what_is_installed_is_small() -> None:
    sizes = {name: size_bytes(name) for name in installed_packages()}
    largest = sorted(sizes.items(), key=lambda each: -each[1])[:5]
    total_mib = sum(sizes.values()) / MIB
    assert total_mib > 10, "the packages are not installed here"
    assert total_mib <= MOST_PACKAGE_MIB, f"{total_mib:.0f} MiB; the largest: {largest}"


def test_the_image_only_copies_what_other_stages_built() -> None:
    """A package manager in the last stage would leave its caches, and a compiler needs one to come in."""
    stage = final_stage()
    runs = [line for line in stage if line.startswith("RUN ")]
    assert runs == [line for line in runs if line.startswith("RUN echo ")]
    assert not any(re.search(r"\b(apt|apt-get|apk|dnf|pip|uv)\b", line) for line in runs)
    assert [line for line in stage if line.startswith("COPY --from=")] == [
        "COPY --from=dependencies /opt/venv /opt/venv",
        "COPY --from=code /opt/finetune /opt/finetune",
    ]


def test_the_version_is_in_the_environment_because_the_code_is_not_installed() -> None:
    """Without a distribution there is no metadata to ask for it."""
    assert "ENV FINETUNE_VERSION=${VERSION}" in final_stage()
