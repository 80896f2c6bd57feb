"""`finetune preview-data` before any data are read: the job's file, and what is missing on this machine."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune_api.spec import MethodType
from finetune_cli.errors import CommandError
from finetune_cli.preview import Preview, load_spec, preview_data
from tests.builders.jobs import make_manifest

EXAMPLES = Path(__file__).parents[3] / "examples"
FINETUNE = str(Path(sys.executable).with_name("finetune"))


def write_job(folder: Path, *documents: object) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return path


def make_preview(job: Path | None = None) -> Preview:
    return Preview((Path("rows.jsonl"),), None, job, None, None, Path("data-report.html"), None)


def test_the_job_is_found_among_other_resources(tmp_path: Path) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}}
    job = make_manifest("bot", "ml", method__type="Full", dataset__preparation={"maxLength": 99})
    spec = load_spec(write_job(tmp_path, secret, job, None))
    assert spec.method.type is MethodType.FULL
    assert spec.dataset.preparation.max_length == 99


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_data_of_every_example_can_be_looked_at(path: Path) -> None:
    assert load_spec(path).dataset.train


def test_a_job_may_leave_its_output_to_the_installation(tmp_path: Path) -> None:
    assert load_spec(write_job(tmp_path, make_manifest("bot", "ml", output=...))).dataset.train


@pytest.mark.parametrize(
    ("documents", "sentence"),
    [
        pytest.param([], "holds no FineTuneJob", id="an empty file"),
        pytest.param([{"kind": "Job", "apiVersion": "batch/v1"}], "holds no FineTuneJob", id="another kind"),
        pytest.param(
            [{"kind": "FineTuneJob", "apiVersion": "other.dev/v1"}],
            "holds no FineTuneJob",
            id="another's group",
        ),
        pytest.param([make_manifest("a", "ml"), make_manifest("b", "ml")], "holds 2 FineTuneJobs", id="two"),
        pytest.param(
            [{"kind": "FineTuneJob", "apiVersion": "finetune.dev/v1alpha1"}], "has no spec", id="no spec"
        ),
        pytest.param(
            [make_manifest("bot", "ml", dataset__train=[{"source": "data.jsonl"}])],
            "spec.dataset.train[0].source 'data.jsonl' is not of the form that it must have. Correct it; "
            "`kubectl explain finetunejob.spec.dataset.train.source` describes it.",
            id="a value of the wrong form",
        ),
        pytest.param(
            [make_manifest("bot", "ml", dataset__preparation={"maxLenght": 9})],
            "spec.dataset.preparation.maxLenght 9: Extra inputs are not permitted.",
            id="a misspelt field",
        ),
    ],
)
def test_a_file_without_one_good_job_is_refused(
    tmp_path: Path, documents: list[object], sentence: str
) -> None:
    with pytest.raises(CommandError) as caught:
        load_spec(write_job(tmp_path, *documents))
    assert sentence in str(caught.value)
    assert str(tmp_path / "job.yaml") in str(caught.value)


def test_a_file_that_is_no_yaml_or_not_there_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [b", encoding="utf-8")
    with pytest.raises(CommandError, match=r"broken\.yaml is not YAML"):
        load_spec(broken)
    with pytest.raises(CommandError, match=r"missing\.yaml cannot be read \(No such file"):
        load_spec(tmp_path / "missing.yaml")


def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    present = importlib.util.find_spec

    def without_arrow(name: str, package: str | None = None) -> object:
        return None if name == "pyarrow" else present(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_arrow)
    with pytest.raises(CommandError) as caught:
        preview_data(make_preview())
    assert "pyarrow is not installed" in str(caught.value)
    assert "pip install 'finetune-operator[cli,prepare]'" in str(caught.value)


def test_an_error_is_a_sentence_of_the_command() -> None:
    command = [FINETUNE, "preview-data", "rows.jsonl", "--job", "/nonexistent/job.yaml"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("finetune: /nonexistent/job.yaml cannot be read")


@pytest.mark.parametrize(
    "wrong",
    [["--format", "Sheep"], ["--max-length", "7"], []],
    ids=["a format", "a length", "no file at all"],
)
def test_wrong_options_are_refused_before_anything_runs(wrong: list[str]) -> None:
    command = [FINETUNE, "preview-data", *(["rows.jsonl", *wrong] if wrong else [])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
