"""The prepare stage as its pod runs it, on a real S3 server: the happy path, and everything it refuses."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from devcluster import S3Server
from finetune_api.layout import RunLayout
from finetune_api.termination import parse_termination_message
from finetune_trainer import prepare
from finetune_trainer.data.prepared import PreparedRows, download_prepared, load_prepared_manifest
from finetune_trainer.errors import DataError, ObjectMissing, StageError, StorageDenied, UserError
from finetune_trainer.run_file import load_run_file
from finetune_trainer.storage import ObjectStore
from finetune_trainer.termination import ENV_TERMINATION_MESSAGE_PATH
from tests.builders.model_folders import make_tensors, tokenizer_json, write_model_folder
from tests.integration.trainer.conftest import SECRET_NAME, mount_secret
from tests.integration.trainer.workbench import ROWS, Workbench

# --- what it leaves behind -------------------------------------------------------------------------------------


def test_a_prepared_run_has_everything_that_train_needs(
    bench: Workbench, store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    message = bench.run(training__globalBatchSize=8, training__epochs=2, training__warmupFraction=0.5)
    assert message.reason == "Prepared"
    assert message.message.startswith("Prepared 20 of 20 rows, ")
    assert message.message.endswith("3 steps an epoch.")
    run_file = load_run_file(store, layout)
    assert (run_file.total_steps, run_file.steps_per_epoch, run_file.warmup_steps) == (6, 3, 3)
    assert run_file.run == "support-bot-01234567"
    assert run_file.model.architecture == "Qwen3ForCausalLM"
    assert run_file.model.target_modules == (
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    )  # fmt: skip
    assert run_file.model.context_length == 2048
    assert run_file.model.parameter_count == sum(tensor.size for tensor in make_tensors().values())
    assert {file.name for file in run_file.model.files} == {
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert run_file.chat_template == (bench.model / "chat_template.jinja").read_text()
    assert "qwen3_training.jinja" in run_file.mask_source
    download_prepared(store, run_file.dataset.prepared_uri, tmp_path)
    rows = PreparedRows(tmp_path / "train.arrow")
    assert len(rows) == run_file.dataset.rows_used == 20
    assert rows.learned_tokens == run_file.dataset.learned_tokens
    assert message.prepared is not None
    assert message.prepared.dataset_digest == run_file.dataset.digest
    assert message.prepared.model_digest == run_file.model.digest
    report = json.loads(store.read_bytes(layout.data_report_json_uri))
    assert report["rowsUsed"] == 20
    assert any(segment["learned"] for segment in report["samples"][0]["segments"])
    assert (report["run"]["stepsPerEpoch"], report["run"]["totalSteps"]) == (3, 6)
    assert "Where is order 0?" in store.read_bytes(layout.data_report_uri).decode()


def test_no_object_of_the_probe_and_no_file_of_the_work_folder_stays(
    bench: Workbench, store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    bench.run()
    assert {info.name for info in store.list_objects(layout.run_uri)} == {
        "data-report.html", "data-report.json", "run.json",
    }  # fmt: skip
    assert list((tmp_path / "work").iterdir()) == []


def test_a_second_attempt_gives_the_same_bytes(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    first = bench.run()
    before = {info.name: info.etag for info in store.list_objects(layout.root)}
    assert bench.run() == first
    assert {info.name: info.etag for info in store.list_objects(layout.root)} == before


def test_a_second_job_with_the_same_data_does_not_tokenise_again(
    bench: Workbench, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.run()

    def tokenised(*arguments: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(prepare, "prepare_data", tokenised)
    second = bench.run(uid="fedcba9876543210", training__epochs=1)
    assert first.prepared is not None
    assert second.prepared is not None
    assert second.prepared.dataset_digest == first.prepared.dataset_digest
    with pytest.raises(AssertionError, match="tokenised again"):
        bench.run(dataset__preparation__maxLength=256)


CHANGES: dict[str, Callable[[Workbench], dict[str, Any]]] = {
    "another row": lambda bench: bench.write_rows(ROWS[1:]) or {},  # type: ignore[func-returns-value]
    "another system prompt": lambda bench: {"dataset__systemPrompt": "Be brief."},
    "every token learned": lambda bench: {"dataset__lossOn": "All"},
    "another length": lambda bench: {"dataset__preparation__maxLength": 500},
    "fewer rows": lambda bench: {
        "dataset__train": [{"source": f"s3://{bench.bucket}/train.jsonl", "maxRows": 5}]
    },
    "another template": lambda bench: {"dataset__chatTemplate": CHATML_LIKE},
    "another tokenizer": lambda bench: _change_tokenizer(bench),
}
CHATML_LIKE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _change_tokenizer(bench: Workbench) -> dict[str, Any]:
    (bench.model / "tokenizer.json").write_text(tokenizer_json(trim_offsets=True))
    return {}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_tokens_changes_the_digest(bench: Workbench, change: str) -> None:
    first = bench.run().prepared
    second = bench.run(**CHANGES[change](bench)).prepared
    assert first is not None
    assert second is not None
    assert first.dataset_digest != second.dataset_digest


def test_what_does_not_change_the_tokens_keeps_the_digest(bench: Workbench) -> None:
    first, second = (
        bench.run().prepared,
        bench.run(training__learningRate=1e-3, method__lora__rank=4).prepared,
    )
    assert first is not None
    assert second is not None
    assert first.dataset_digest == second.dataset_digest


def test_the_jobs_own_template_is_used_and_exported(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    bench.run(dataset__chatTemplate=CHATML_LIKE)
    run_file = load_run_file(store, layout)
    assert run_file.chat_template == CHATML_LIKE
    assert "dataset.chatTemplate has no markers" in run_file.mask_source


def test_rows_come_from_config_maps_inline_and_compressed_objects_together(
    bench: Workbench, config_directory: Path
) -> None:
    mounted = config_directory / "data" / "few-rows"
    mounted.mkdir(parents=True)
    (mounted / "rows.json").write_text(json.dumps(ROWS[:2]))
    (bench.folder / "more.jsonl.gz").write_bytes(gzip.compress(b'{"query": "q", "response": "a"}\n'))
    train = [
        {"source": "configMap://few-rows/rows.json"},
        {"inline": [{"question": "q", "answer": "a"}]},
        {"source": f"s3://{bench.bucket}/more.jsonl.gz"},
    ]
    message = bench.run(dataset__train=train)
    assert message.prepared is not None
    assert message.prepared.rows_used == 4


def test_a_source_may_stand_in_a_store_of_its_own(
    bench: Workbench, s3_server: S3Server, config_directory: Path
) -> None:
    key = s3_server.access_key
    mount_secret(
        config_directory, "other", AWS_ACCESS_KEY_ID=key.identifier, AWS_SECRET_ACCESS_KEY=key.secret
    )
    own = {
        **bench.settings.model_dump(mode="json", exclude_none=True),
        "credentialsSecretRef": {"name": "other"},
    }
    bench.run(dataset__train=[{"source": f"s3://{bench.bucket}/train.jsonl", "store": own}])
    shutil.rmtree(config_directory / "credentials" / "other")
    with pytest.raises(UserError, match="Secret 'other'"):
        bench.run(dataset__train=[{"source": f"s3://{bench.bucket}/train.jsonl", "store": own}])


def test_dropped_rows_are_counted_in_run_file_message_and_report(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    bench.write_rows([*ROWS, {"messages": []}, {"question": "x" * 2000, "answer": "a"}])
    message = bench.run(
        dataset__preparation={"invalidRows": "Drop", "maxInvalidFraction": 0.1, "maxLength": 128}
    )
    assert message.prepared is not None
    assert (message.prepared.rows_used, message.prepared.rows_dropped) == (20, 2)
    assert load_run_file(store, layout).dataset.rows_dropped == 2
    report = json.loads(store.read_bytes(layout.data_report_json_uri))
    invalid = next(each for each in report["dropped"] if each["reason"] == "Invalid")
    assert invalid["first"][0]["where"].endswith("train.jsonl line 21")
    assert "messages is empty" in invalid["first"][0]["why"]


def test_prepared_data_that_were_damaged_are_not_used(
    bench: Workbench, store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    bench.run()
    uri = load_run_file(store, layout).dataset.prepared_uri
    store.write_bytes(f"{uri}/train.arrow", store.read_bytes(f"{uri}/train.arrow")[:-1] + b"\x07")
    with pytest.raises(
        StageError, match=r"prepared data at .* are damaged: train.arrow does not have the SHA-256"
    ):
        download_prepared(store, uri, tmp_path)
    assert load_prepared_manifest(store, uri) is not None


CANARIES = {"Email": "canary.person@example.org", "Phone": "+86 139 1234 5678", "IPAddress": "203.0.113.77"}
_TEXT = "Write to " + ", ".join(CANARIES.values())
PRIVATE_ROWS: dict[str, tuple[list[Any], bool]] = {
    "rows that are used": ([{"question": _TEXT, "answer": _TEXT}], True),
    "a row that is too long": ([*ROWS, {"messages": [
        {"role": "user", "content": f"{_TEXT} " * 100}, {"role": "assistant", "content": "a"}]}], True),
    "duplicates": ([{"question": _TEXT, "answer": "a"}] * 3, True),
    "a role": ([*ROWS, {"messages": [{"role": CANARIES["Email"], "content": _TEXT}]}], False),
    "a row without answer": ([{"question": "q", "answer": "a"}, {"question": _TEXT}], False),
    "a line that is no JSON": ([{"question": "q", "answer": "a"}, f"not JSON: {_TEXT}"], False),
    "the description of a tool": ([{**ROWS[0], "tools": [{"type": "function", "function": {
        "name": "mail", "description": _TEXT, "parameters": {"type": "object", "properties": {}}}}]}], True),
}  # fmt: skip


@pytest.mark.parametrize("case", PRIVATE_ROWS)
def test_what_is_redacted_stands_in_no_object_no_message_and_no_log(
    case: str, bench: Workbench, store: ObjectStore, layout: RunLayout, caplog: pytest.LogCaptureFixture
) -> None:
    rows, is_usable = PRIVATE_ROWS[case]
    caplog.set_level("DEBUG")
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (bench.folder / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))
    preparation = {"redact": list(CANARIES), "duplicates": "Exact", "maxLength": 1000}
    if is_usable:
        told = bench.run(dataset__preparation=preparation).model_dump_json()
    else:
        with pytest.raises(DataError) as refused:
            bench.run(dataset__preparation=preparation)
        told = refused.value.message
    written = b"".join(store.read_bytes(info.uri) for info in store.list_objects(layout.root))
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("finetune"))
    for canary in CANARIES.values():
        assert canary not in told + ours
        assert canary.encode() not in written
    template = load_run_file(store, layout).chat_template if is_usable else ""
    assert "canary" not in template


@pytest.mark.parametrize("name", ["train.arrow", "sizes.arrow", "data-report.json"])
def test_prepared_data_of_which_something_is_gone_are_prepared_again(
    name: str, bench: Workbench, store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    first = bench.run()
    uri = load_run_file(store, layout).dataset.prepared_uri
    before = store.read_bytes(f"{uri}/{name}")
    store.delete([f"{uri}/{name}"])
    assert bench.run() == first
    assert store.read_bytes(f"{uri}/{name}") == before


def test_a_full_disk_names_the_setting(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare, "prepare_data", full)
    with pytest.raises(UserError, match=r"disk is full. Raise resources.prepare.ephemeralStorage"):
        bench.run()


def test_validation_rows_are_kept_out_of_training_and_looked_at_once_an_epoch(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    message = bench.run(dataset__validation={"fraction": 0.2}, training={"globalBatchSize": 4})
    assert message.prepared is not None
    assert (message.prepared.rows_used, message.prepared.rows_validation) == (16, 4)
    run_file = load_run_file(store, layout)
    assert (run_file.dataset.rows_validation, run_file.evaluation_steps) == (4, 4)
    assert not any("kept out" in warning for warning in warnings_of(store, layout))


def test_the_report_says_that_nobody_measures_on_test_rows_yet(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    bench.write_rows(ROWS[:5], "test.jsonl")
    bench.run(dataset__test=[{"source": f"s3://{bench.bucket}/test.jsonl"}])
    sentence = "The rows of dataset.test are kept out of training"
    assert any(warning.startswith(sentence) for warning in warnings_of(store, layout))
    run_file = load_run_file(store, layout)
    assert (run_file.dataset.rows_validation, run_file.evaluation_steps) == (0, None)


def warnings_of(store: ObjectStore, layout: RunLayout) -> list[str]:
    """What the run's data report warns of."""
    report: dict[str, list[str]] = json.loads(store.read_bytes(layout.data_report_json_uri))
    return report["warnings"]


# --- as a process ----------------------------------------------------------------------------------------------


def test_the_stage_runs_without_torch_and_transformers(
    bench: Workbench, tmp_path: Path, s3_server: S3Server
) -> None:
    job = bench.job(output__store__credentialsSecretRef=...)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    program = (
        "import sys\nfrom finetune_trainer.__main__ import main\n"
        f"code = main(['prepare', '--job', {str(tmp_path / 'job.json')!r}])\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'sklearn', 'scipy', 'datasketch', 'phonenumbers',"
        " 'huggingface_hub', 'modelscope', 'modelscope_hub'} & {name for name, module in sys.modules.items() if module is not None}\n"
        "assert not heavy, heavy\nsys.exit(code)\n"
    )
    key = s3_server.access_key
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": key.identifier,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        ENV_TERMINATION_MESSAGE_PATH: str(tmp_path / "message"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    message = parse_termination_message((tmp_path / "message").read_text())
    assert message is not None
    assert message.prepared is not None
    assert "learned parts between « »: <|im_start|>user⏎Where is order 0?<|im_end|>" in done.stderr
    assert key.secret not in done.stderr + done.stdout


# --- what it refuses: the store --------------------------------------------------------------------------------


def test_wrong_credentials_end_the_job_before_anything_else(bench: Workbench, config_directory: Path) -> None:
    mount_secret(config_directory, SECRET_NAME, AWS_SECRET_ACCESS_KEY="wrong")
    with pytest.raises(StorageDenied, match=rf"Bucket '{bench.bucket}' .*Secret '{SECRET_NAME}'"):
        bench.run()


def test_a_missing_output_bucket_is_named(bench: Workbench) -> None:
    with pytest.raises(ObjectMissing, match=r"Bucket 'nowhere' does not exist at http.*Create the bucket"):
        bench.run(output__uri="s3://nowhere/model")


def test_a_missing_data_object_is_named(bench: Workbench) -> None:
    with pytest.raises(ObjectMissing, match=rf"s3://{bench.bucket}/none.jsonl does not exist at http"):
        bench.run(dataset__train=[{"source": f"s3://{bench.bucket}/none.jsonl"}])


def test_a_missing_config_map_is_named(bench: Workbench) -> None:
    with pytest.raises(
        UserError, match=r"ConfigMap 'none' has no key 'rows.jsonl' \(it has no keys, or is not mounted\)"
    ):
        bench.run(dataset__train=[{"source": "configMap://none/rows.jsonl"}])


def test_a_store_that_does_not_list_what_was_written_is_refused(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pods would each find themselves alone. The probe is removed all the same."""
    monkeypatch.setattr(ObjectStore, "list_objects", lambda self, uri: [])
    with pytest.raises(UserError, match="does not list an object that was just written"):
        bench.run()
    assert not list(bench.folder.rglob("*write-test*"))


def test_a_store_that_ignores_conditional_writes_is_told_of(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = ObjectStore.write_bytes

    def unconditional(self: ObjectStore, uri: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        return write(self, uri, data)

    monkeypatch.setattr(ObjectStore, "write_bytes", unconditional)
    bench.run()
    assert "ignores conditional writes" in caplog.text


# --- what it refuses: the data ---------------------------------------------------------------------------------


def test_a_malformed_line_ends_the_job_naming_it(bench: Workbench) -> None:
    with (bench.folder / "train.jsonl").open("a") as file:
        file.write('{"messages": [}\n')
    with pytest.raises(
        DataError, match=rf"1 of 21 rows cannot be used: s3://{bench.bucket}/train.jsonl line 21: not JSON"
    ):
        bench.run()


def test_empty_data_end_the_job(bench: Workbench) -> None:
    bench.write_rows([])
    with pytest.raises(DataError, match=rf"s3://{bench.bucket}/train.jsonl is empty"):
        bench.run()


# --- what it refuses: the model --------------------------------------------------------------------------------


def _config(**changes: Any) -> Callable[[Path], object]:
    return lambda model: write_model_folder(model, **changes)


def _remove(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def _write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda model: (model / name).write_bytes(data)


def _empty(model: Path) -> None:
    for path in model.iterdir():
        path.unlink()


def _cut_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-4])


def _into_shards(model: Path, index: dict[str, str] | None = None) -> None:
    tensors = make_tensors()
    (model / "model.safetensors").unlink()
    halves = sorted(tensors)[: len(tensors) // 2], sorted(tensors)[len(tensors) // 2 :]
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, half in zip(files, halves, strict=True):
        save_file({tensor: tensors[tensor] for tensor in half}, model / name)
    weight_map = {tensor: name for name, half in zip(files, halves, strict=True) for tensor in half}
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {**weight_map, **(index or {})}})
    )


def _shards_without_index(model: Path) -> None:
    _into_shards(model)
    (model / "model.safetensors.index.json").unlink()


def _shards_with_one_missing(model: Path) -> None:
    _into_shards(model)
    (model / "model-00002-of-00002.safetensors").unlink()


def _save(model: Path, **tensors: np.ndarray) -> None:
    save_file({**make_tensors(), **tensors}, model / "model.safetensors")


def _into_subfolder(model: Path) -> None:
    for path in list(model.iterdir()):
        (model / "v1").mkdir(exist_ok=True)
        path.rename(model / "v1" / path.name)


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty folder": (_empty, "holds no files"),
    "a folder too high": (_into_subfolder, "There is one in the folder v1: add it to the URI."),
    "no config.json": (
        _remove("config.json"),
        r"has no config.json. The folder must be as save_pretrained writes it",
    ),
    "an adapter instead of a model": (
        lambda model: (model / "config.json").rename(model / "adapter_config.json"),
        "It holds an adapter; name the base model instead",
    ),
    "no tokenizer": (
        _remove("tokenizer.json"),
        "has no tokenizer.json. Save the tokenizer there in its fast form",
    ),
    "no weights": (
        _remove("model.safetensors"),
        "has no .safetensors file. Only safetensors weights are read",
    ),
    "pickled weights only": (
        lambda model: (model / "model.safetensors").rename(model / "pytorch_model.bin"),
        "Only safetensors weights are read; convert others",
    ),
    "config.json that is no JSON": (_write("config.json", "{"), r"config.json cannot be read \(Invalid JSON"),
    "config.json that is a list": (_write("config.json", "[]"), "config.json cannot be read"),
    "code of its own": (_config(auto_map={"AutoModel": "modeling.X"}), r"\(auto_map\), which is never run"),
    "quantised weights": (
        _config(quantization_config={"bits": 4}),
        r"quantised weights \(quantization_config\)",
    ),
    "another task": (
        _config(architectures=["BertForSequenceClassification"]),
        "names the architectures BertForSequenceClassification; only causal language models",
    ),
    "no architecture": (_config(architectures=...), "names the architectures none"),
    "soft-capped attention": (
        _config(model_type="gemma2", architectures=["Gemma2ForCausalLM"], attn_logit_softcapping=50.0),
        r"asks for soft-capped attention logits \(attn_logit_softcapping 50.0\).* Set spec.model.source",
    ),
    "soft-capped output": (
        _config(final_logit_softcapping=30.0, attn_logit_softcapping=None),
        r"asks for soft-capped output logits \(final_logit_softcapping 30.0\)",
    ),
    "scaled output": (_config(logit_scale=0.0625), r"asks for scaled output logits \(logit_scale 0.0625\)"),
    "attention sinks": (
        lambda model: _save(model, **{"model.layers.0.self_attn.sinks": np.zeros(4, np.float32)}),
        r"has attention sinks \(model.layers.0.self_attn.sinks\)",
    ),
    "weights cut short": (
        _cut_weights,
        r"is not a complete safetensors file: it has \d+ bytes, its header says \d+",
    ),
    "weights that are something else": (
        _write("model.safetensors", b"x" * 100),
        "its header is longer than the file or than the format allows",
    ),
    "empty weights": (_write("model.safetensors", b""), "is not a complete safetensors file"),
    "a header that is no header": (
        _write("model.safetensors", (2).to_bytes(8, "little") + b"[]"),
        "its header is not that of the format",
    ),
    "shards without an index": (
        _shards_without_index,
        "has neither model.safetensors nor model.safetensors.index.json",
    ),
    "a missing shard": (
        _shards_with_one_missing,
        "names 1 files that are not there: model-00002-of-00002.safetensors",
    ),
    "an index of another version": (
        lambda model: _into_shards(model, {"model.norm.weight": "model-00001-of-00002.safetensors"}),
        "says that model.norm.weight is in model-00001-of-00002.safetensors, and it is not there",
    ),
    "weights of another type": (
        lambda model: _save(model, extra=np.zeros(2, np.int8)),
        "Tensor extra of .* has the type I8; weights must be BF16, F16 or F32",
    ),
    "a mixture of experts": (
        lambda model: _save(
            model, **{"model.layers.0.mlp.experts.0.up_proj.weight": np.zeros((4, 4), np.float32)}
        ),
        "is a mixture of experts",
    ),
    "a mixture of experts whose weights are fused": (
        lambda model: _save(
            model, **{"model.layers.0.mlp.experts.gate_up_proj": np.zeros((2, 4, 4), np.float32)}
        ),
        "is a mixture of experts",
    ),
    "a kind of model that is not trained": (
        _config(model_type="bloom", architectures=["BloomForCausalLM"]),
        "names the model_type bloom, which is not trained yet: .* Set spec.model.source to a model of one of these",
    ),
    "weights of another width": (
        _config(hidden_size=32),
        r"Tensor model.embed_tokens.weight of s3://.* is \d+ x 16, but config.json says \d+ x 32 \(vocab_size \d+ and "
        r"hidden size 32\). Put the config.json and the weights of one model into",
    ),
    "weights with another vocabulary": (_config(vocab_size=77), "is .* x 16, but config.json says 77 x 16"),
    "fewer blocks than declared": (
        _config(num_hidden_layers=3),
        "says num_hidden_layers 3, but the files have 2 numbered blocks: block 2 has no tensor",
    ),
    "more blocks than declared": (
        _config(num_hidden_layers=1),
        "says num_hidden_layers 1, but the files have 2 numbered blocks: model.layers.1.input_layernorm.weight is there",
    ),
    "weights of another kind of model": (
        lambda model: save_file(
            {
                "h.0.attn.c_attn.weight": np.zeros((4, 12), np.float32),
                "wte.weight": np.zeros((9, 4), np.float32),
            },
            model / "model.safetensors",
        ),
        r"says model_type qwen3, whose embedding is embed_tokens.weight, but the files have no such tensor; the first "
        r"they have is h.0.attn.c_attn.weight",
    ),
    "a tokenizer that is none": (
        _write("tokenizer.json", "{}"),
        "tokenizer.json of the model cannot be read",
    ),
    "a tokenizer configuration that is none": (
        _write("tokenizer_config.json", "["),
        "tokenizer_config.json of the model cannot be read",
    ),
    "no chat template": (_remove("chat_template.jinja"), "has no chat template .* Set dataset.chatTemplate"),
    "a broken chat template": (
        _write("chat_template.jinja", "{% if %}"),
        "is not valid Jinja .* set dataset.chatTemplate",
    ),
    "a tokenizer larger than the model": (
        lambda model: (
            write_model_folder(model, vocab_size=100),
            save_file(make_tensors(vocabulary_size=100), model / "model.safetensors"),
        ),
        r"has token ids up to \d+, the model's vocabulary ends at 99",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_refused_with_a_sentence(bench: Workbench, case: str) -> None:
    damage, sentence = BAD_MODELS[case]
    damage(bench.model)
    with pytest.raises(UserError, match=sentence):
        bench.run()


def test_a_model_that_mentions_logit_settings_without_using_them_is_prepared(bench: Workbench) -> None:
    write_model_folder(bench.model, final_logit_softcapping=None, logits_scaling=1.0)
    assert bench.run().reason == "Prepared"


def test_what_is_not_supported_is_refused_before_the_store_is_asked(bench: Workbench) -> None:
    with pytest.raises(UserError, match=r"output\.quantized NF4 is not supported yet: set None"):
        bench.run(output__quantized="NF4", output__uri="s3://nowhere/model")


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "a target that the model lacks": (
        {"method__lora__targetModules": ["q_proj", "query"]},
        "names query, which is no linear layer of the model's blocks. It has down_proj, gate_proj",
    ),
    "a norm as target": (
        {"method__lora__targetModules": ["input_layernorm"]},
        r"names input_layernorm, which is no linear .* Beside them, embed_tokens and lm_head can be named\.",
    ),
    "auto beside names": (
        {"method__lora__targetModules": ["auto", "q_proj"]},
        r"mixes auto with names. Write \[auto\]",
    ),
    "a rank larger than a layer": (
        {"method__lora__rank": 17},
        r"method.lora.rank 17 is larger than the smallest dimension of model.layers.0.* Set rank to at most 16",
    ),
    "rows longer than the context": (
        {"dataset__preparation__maxLength": 2049},
        "maxLength 2049 is longer than the model's context of 2048 tokens. Set maxLength to at most 2048",
    ),
    "a disk smaller than the model": (
        {"resources__ephemeralStorage": "10Ki"},
        r"resources.ephemeralStorage 10Ki is too small: the base model's files and a checkpoint alone need 0.\d MiB. Raise",
    ),
    "an export disk smaller than the model": (
        {"resources__export__ephemeralStorage": "10Ki"},
        "resources.export.ephemeralStorage 10Ki is too small",
    ),
    "memory smaller than the weights, on the CPU": (
        {"resources__memory": "10k", "parallelism__gpusPerNode": 0},
        "resources.memory 10k is too small: the base model's weights and what is trained beside them, on the CPU, alone "
        r"need 0.\d MiB",
    ),
    "a chat template that is not Jinja": (
        {"dataset__chatTemplate": "{% for %}"},
        "dataset.chatTemplate is not valid Jinja",
    ),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_settings_that_do_not_fit_the_model_are_refused(bench: Workbench, case: str) -> None:
    changes, sentence = BAD_SETTINGS[case]
    with pytest.raises(UserError, match=sentence):
        bench.run(**changes)


def test_a_model_in_shards_is_read_like_one_in_a_single_file(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    bench.run()
    single = load_run_file(store, layout).model
    _into_shards(bench.model)
    bench.run()
    sharded = load_run_file(store, layout).model
    assert sharded.parameter_count == single.parameter_count
    assert sharded.target_modules == single.target_modules
    assert sharded.digest != single.digest


def test_named_targets_are_kept_in_order(bench: Workbench, store: ObjectStore, layout: RunLayout) -> None:
    bench.run(method__lora__targetModules=["v_proj", "mlp.down_proj", "q_proj"])
    assert load_run_file(store, layout).model.target_modules == ("mlp.down_proj", "q_proj", "v_proj")
