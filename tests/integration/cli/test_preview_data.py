"""`finetune preview-data` as users run it: real files, the trainer's own code, the report it leaves."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_trainer.data.report import DataReport
from finetune_trainer.data.rows import DropReason
from tests.builders.jobs import make_manifest
from tests.builders.model_folders import write_tokenizer_folder
from tests.stand_ins.hub_server import connect_directly
from tests.stand_ins.hugging_face_hub import HuggingFaceHub

FINETUNE = str(Path(sys.executable).with_name("finetune"))
QUICKSTART = Path(__file__).parents[3] / "examples/quickstart/data/train.jsonl"
CANARY = "canary.3f9@example.com"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with ChatML, one token a byte."""
    return write_tokenizer_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def preview(model: Path, tmp_path: Path) -> Run:
    """Run the command in the test's folder, with that tokenizer unless the test names one."""

    def run(*arguments: object, tokenizer: object = model) -> subprocess.CompletedProcess[str]:
        options = [] if tokenizer is None else ["--model", str(tokenizer)]
        return subprocess.run(
            [FINETUNE, "preview-data", *map(str, arguments), *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def chat(question: str, answer: str = "refund") -> dict[str, Any]:
    turns = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def write_rows(path: Path, *rows: object) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_job(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(make_manifest("bot", "ml", **changes)), encoding="utf-8")
    return path


def read_report(folder: Path) -> DataReport:
    return DataReport.model_validate_json((folder / "report.json").read_bytes())


def test_the_quickstarts_data_are_told_and_written_as_a_page(preview: Run, tmp_path: Path) -> None:
    result = preview(QUICKSTART, "--json", "report.json")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.match(r"Prepared 896 of 896 rows, [\d.]+ k tokens, \d+ % learned; longest ", result.stdout)
    assert f"{QUICKSTART}: Messages, 896 of 896 rows used\n  Recognised as Messages" in result.stdout
    assert "  <|im_start|>assistant\n  «change_address<|im_end|>»\n" in result.stdout
    assert result.stdout.endswith("\nReport: data-report.html\n")
    page = (tmp_path / "data-report.html").read_text(encoding="utf-8")
    assert "<title>train.jsonl · data report</title>" in page
    assert "<mark>change_address&lt;|im_end|&gt;</mark>" in page
    report = read_report(tmp_path)
    assert report.rows_used == 896
    assert report.run is not None
    assert report.run.steps_per_epoch == 56


def test_rows_that_cannot_be_used_are_named_and_the_report_is_written_all_the_same(
    preview: Run, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", chat("a"), "{", {"messages": []})
    result = preview(rows, "--json", "report.json")
    assert result.returncode == 11
    assert "2 of 3 rows cannot be used" in result.stderr
    assert f"{rows} line 2: not JSON" in result.stdout
    report = read_report(tmp_path)
    assert report.refusal is not None
    assert result.stderr == f"finetune: {report.refusal}\n"
    assert [(dropped.reason, dropped.rows) for dropped in report.dropped] == [(DropReason.INVALID, 2)]
    assert "These data are not trained on" in (tmp_path / "data-report.html").read_text(encoding="utf-8")


def test_the_jobs_settings_are_taken_and_what_is_redacted_stands_nowhere(
    preview: Run, tmp_path: Path
) -> None:
    preparation = {
        "invalidRows": "Drop",
        "maxInvalidFraction": 0.5,
        "duplicates": "Exact",
        "redact": ["Email"],
    }
    job = write_job(
        tmp_path / "job.yaml",
        dataset__preparation=preparation,
        dataset__systemPrompt="Be kind.",
        dataset__validation={"sources": [{"source": "s3://data/held-out.jsonl"}]},
        training={"epochs": 2, "globalBatchSize": 1},
    )
    rows = write_rows(
        tmp_path / "rows.jsonl", chat(f"Write to {CANARY}"), chat("b"), chat("b"), f'{{"{CANARY}'
    )
    result = preview(rows, "--job", job, "--json", "report.json")
    assert result.returncode == 0, result.stderr
    assert (
        "left out of the preview, since only the job's pods read it: dataset.validation.sources"
        in result.stderr
    )
    assert "Be kind." in result.stdout
    report = read_report(tmp_path)
    assert {dropped.reason: dropped.rows for dropped in report.dropped} == {
        DropReason.INVALID: 1,
        DropReason.DUPLICATE: 1,
    }
    assert [changed.step for changed in report.changed] == ["redact.Email"]
    assert report.run is not None
    assert (report.run.steps_per_epoch, report.run.total_steps) == (2, 4)
    written = [(tmp_path / name).read_text(encoding="utf-8") for name in ("data-report.html", "report.json")]
    assert "[EMAIL]" in written[0]
    assert not [text for text in (*written, result.stdout, result.stderr) if "canary" in text]


def test_several_files_and_folders_are_read_each_in_its_own_format(preview: Run, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.csv.gz").write_bytes(gzip.compress("question,answer\n退款?,好的\n".encode("gb18030")))
    (folder / "README.md").write_text("not rows")
    result = preview(write_rows(tmp_path / "rows.jsonl", chat("a")), folder, "--json", "report.json")
    assert result.returncode == 0, result.stderr
    first, second = read_report(tmp_path).sources
    assert (first.format, first.rows_used) == ("Messages", 1)
    assert (second.format, second.rows_used) == ("InputTarget", 1)
    assert second.files == (f"{folder}/a.csv.gz",)
    assert any("GB18030" in note for note in second.notes)


def test_a_reader_that_has_seen_enough_is_no_error(model: Path, tmp_path: Path) -> None:
    command = f"{FINETUNE} preview-data {QUICKSTART} --model {model} | true"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, timeout=300, check=False
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert (tmp_path / "data-report.html").is_file()


def test_options_go_before_the_job(preview: Run, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.yaml", dataset__preparation={"maxLength": 1000})
    rows = write_rows(tmp_path / "rows.jsonl", {"text": "a" * 50}, {"text": "b" * 500})
    result = preview(rows, "--job", job, "--format", "text", "--max-length", "100", "--json", "report.json")
    assert result.returncode == 0, result.stderr
    report = read_report(tmp_path)
    assert report.sources[0].format == "Text"
    assert [(dropped.reason, dropped.rows) for dropped in report.dropped] == [(DropReason.TOO_LONG, 1)]


@pytest.mark.parametrize(
    ("arguments", "tokenizer", "sentence"),
    [
        pytest.param(["none.jsonl"], ..., "none.jsonl does not exist.", id="no file"),
        pytest.param(["rows.jsonl"], "none", "--model none is no folder here.", id="no model"),
        pytest.param(
            ["rows.jsonl"], ".", "--model . has no tokenizer.json.", id="a folder without a tokenizer"
        ),
        pytest.param(
            ["rows.jsonl", "--job", "job.yaml"],
            None,
            "The model s3://models/base is not read here. Name a folder with its tokenizer.json",
            id="the job's model is in a store",
        ),
        pytest.param(
            ["rows.jsonl", "--job", "two.yaml"],
            ...,
            "The job's dataset.train has 2 sources and 1 file",
            id="fewer files than sources",
        ),
        pytest.param(
            ["rows.jsonl", "--html", "none/report.html"],
            ...,
            "none/report.html cannot be written (No such file or directory).",
            id="nowhere to write",
        ),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    preview: Run, model: Path, tmp_path: Path, arguments: list[str], tokenizer: Any, sentence: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", chat("a"))
    write_job(tmp_path / "job.yaml", model={"source": "s3://models/base"})
    sources = [{"source": f"s3://data/{name}.jsonl"} for name in "ab"]
    write_job(tmp_path / "two.yaml", dataset__train=sources)
    result = preview(*arguments, tokenizer=model if tokenizer is ... else tokenizer)
    assert result.returncode not in (0, 2)
    assert f"finetune: {sentence}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFaceHub]:
    """A hub with that tokenizer, and weights that nobody asks for."""
    connect_directly(monkeypatch)
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    with HuggingFaceHub() as hub:
        hub.commit("org/tiny", {**files, "config.json": b"{}", "model.safetensors": b"w" * 10_000})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def test_a_hubs_tokenizer_is_fetched_and_its_weights_are_not(
    preview: Run, hub: HuggingFaceHub, tmp_path: Path
) -> None:
    result = preview(write_rows(tmp_path / "rows.jsonl", chat("a")), tokenizer="hf://org/tiny")
    assert result.returncode == 0, result.stderr
    assert "fetching the tokenizer of hf://org/tiny" in result.stderr
    assert hub.sent("safetensors") == 0


def test_a_gated_model_is_read_with_the_users_token_which_stands_nowhere(
    preview: Run, hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gate("org/tiny", readers={"hf_secret_of_mine"})
    rows = write_rows(tmp_path / "rows.jsonl", chat("a"))
    refused = preview(rows, tokenizer="hf://org/tiny")
    assert refused.returncode == 10
    assert "is gated" in refused.stderr
    assert "Here: set HF_TOKEN, or name a folder with the tokenizer, --model DIR." in refused.stderr
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    allowed = preview(rows, tokenizer="hf://org/tiny")
    assert allowed.returncode == 0, allowed.stderr
    assert "hf_secret_of_mine" not in allowed.stdout + allowed.stderr


def test_the_preview_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, finetune_trainer.preview; "
        "print(sorted({'torch', 'transformers', 'kubernetes', 'sklearn', 'modelscope'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert result.stdout.strip() == "[]"
