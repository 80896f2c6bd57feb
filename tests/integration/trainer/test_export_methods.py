"""Export of what other methods than LoRA leave behind, from and to a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig

from devcluster import S3Server
from finetune_api.layout import CurrentPointer
from finetune_api.names import ENV_WORK_DIRECTORY, Stage
from finetune_api.termination import TerminationMessage, TrainedFacts
from finetune_trainer import export
from finetune_trainer.claims import claim_incarnation
from finetune_trainer.trained import commit_trained
from tests.builders.training_runs import SETTINGS, TrainingRun
from tests.builders.tuned_models import LABELS, load_adapted, write_adapter, write_trained_weights

CLASSIFIES = {"task": "SequenceClassification", "labels": list(LABELS)}
ROWS = torch.arange(60).reshape(3, 20) * 7 % 256


@pytest.fixture(scope="module")
def prepared(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A run whose rows are there, and that nothing was trained of."""
    run = TrainingRun(server, tmp_path_factory.mktemp("prepared"), "eeeeeeee-0000", SETTINGS)
    run.run(Stage.PREPARE)
    return run


class Exported:
    """A run of another method on the prepared rows, exported in this process."""

    def __init__(
        self, prepared: TrainingRun, trained: Path, uid: str, monkeypatch: pytest.MonkeyPatch, **changes: Any
    ) -> None:
        self.run = TrainingRun(prepared.server, trained.parent, uid, changes)
        store, layout = self.run.store, self.run.job(Stage.EXPORT).layout
        store.write_bytes(
            layout.run_file_uri, store.read_bytes(prepared.job(Stage.EXPORT).layout.run_file_uri)
        )
        commit_trained(
            store, layout, trained, TrainedFacts(step=30, loss=1.0), claim_incarnation(store, layout)
        )
        self.message = self.export(monkeypatch, trained.parent / "work")
        self.folder = prepared.server.data / layout.run_uri.removeprefix("s3://")
        self.pointer = CurrentPointer.model_validate_json(store.read_bytes(layout.current_uri))

    def export(self, monkeypatch: pytest.MonkeyPatch, work: Path) -> TerminationMessage:
        work.mkdir()
        monkeypatch.setenv(ENV_WORK_DIRECTORY, str(work))
        return export.run(self.run.job(Stage.EXPORT), work / "job.json")


def test_full_fine_tuning_is_exported_as_a_model_without_an_adapter(
    prepared: TrainingRun, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    trained = write_trained_weights(base_model, tmp_path / "trained", shard_size="100KB")
    result = Exported(prepared, trained, "f0000000-0000", monkeypatch, method={"type": "Full"})
    facts = result.message.exported
    assert facts is not None
    assert (facts.adapter_uri, facts.merge_max_logit_difference) == (None, 0.0)
    assert result.message.message == f"The model is at {facts.merged_uri}."
    assert not (result.folder / "adapter").exists()
    assert result.pointer.adapter_uri is None
    assert result.pointer.merged_uri == facts.merged_uri
    assert "every weight was trained" in (result.folder / "merged" / "README.md").read_text()
    AutoModelForCausalLM.from_pretrained(result.folder / "merged")

    again = result.export(monkeypatch, tmp_path / "again")
    assert again.exported == facts
    assert not (tmp_path / "again" / "model").exists()


def test_virtual_tokens_are_exported_as_an_adapter_alone(
    prepared: TrainingRun, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    trained = write_adapter(base_model, tmp_path / "trained", config)
    result = Exported(prepared, trained, "f1111111-0000", monkeypatch, method={"type": "PrefixTuning"})
    facts = result.message.exported
    assert facts is not None
    assert (facts.merged_uri, facts.merge_max_logit_difference) == (None, None)
    assert result.message.message.endswith("because PrefixTuning cannot be merged.")
    assert not (result.folder / "merged").exists()
    assert "cannot be merged" in (result.folder / "adapter" / "README.md").read_text()
    load_adapted(base_model, result.folder / "adapter")

    again = result.export(monkeypatch, tmp_path / "again")
    assert again.exported == facts


def test_classifier_is_exported_with_its_labels(
    prepared: TrainingRun, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForSequenceClassification

    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"])
    trained = write_adapter(base_model, tmp_path / "trained", config, labels=LABELS)
    result = Exported(prepared, trained, "f2222222-0000", monkeypatch, **CLASSIFIES)
    merged = AutoModelForSequenceClassification.from_pretrained(result.folder / "merged").eval()
    adapted = load_adapted(base_model, result.folder / "adapter", LABELS)
    with torch.no_grad():
        difference = merged(input_ids=ROWS).logits - adapted(input_ids=ROWS).logits
    assert difference.abs().max() < 1e-5
    assert merged.config.id2label == dict(enumerate(LABELS))


def test_adapter_is_left_out_where_it_is_not_wanted(
    prepared: TrainingRun, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["lm_head"])
    trained = write_adapter(base_model, tmp_path / "trained", config)
    changes = {"method__lora": {"rank": 4}, "output__adapter": False}
    run = Exported(prepared, trained, "f3333333-0000", monkeypatch, **changes)
    assert run.message.exported is not None
    assert run.message.exported.adapter_uri is None
    assert not (run.folder / "adapter").exists()
    configuration = json.loads((run.folder / "merged" / "config.json").read_text())
    assert configuration["tie_word_embeddings"] is False
