"""`model.adapterSource`: an earlier adapter is found, held against the job, and brought into the store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api import names
from finetune_api.layout import RunLayout
from finetune_trainer.errors import UserError
from finetune_trainer.fetching import fetch_adapter
from finetune_trainer.run_file import AdapterFacts, load_run_file
from finetune_trainer.storage import ObjectStore
from tests.builders.adapter_folders import lora_tensors, write_adapter_folder
from tests.integration.trainer.workbench import Workbench
from tests.stand_ins.hub_server import connect_directly
from tests.stand_ins.hugging_face_hub import HuggingFaceHub

FILES = {"adapter_config.json", "adapter_model.safetensors"}
# What the adapter has, as a job asks for it.
FITTING: dict[str, Any] = {"method__lora": {"rank": 4, "alpha": 8, "targetModules": ["q_proj", "v_proj"]}}


@pytest.fixture
def adapter(bench: Workbench) -> Path:
    """The folder of an adapter in the bucket."""
    return write_adapter_folder(bench.folder / "adapters/law")


def source(bench: Workbench) -> dict[str, str]:
    return {"model__adapterSource": f"s3://{bench.bucket}/adapters/law/"}


def adapter_of(store: ObjectStore, layout: RunLayout) -> AdapterFacts:
    facts = load_run_file(store, layout).adapter
    assert facts is not None
    return facts


def test_adapter_of_the_store_is_read_where_it_stands(
    bench: Workbench, adapter: Path, store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    bench.run(**source(bench), **FITTING)
    facts = adapter_of(store, layout)
    assert facts.uri == facts.source == f"s3://{bench.bucket}/adapters/law"
    assert {file.name for file in facts.files} == FILES

    fetch_adapter(store, facts, tmp_path / "fetched")
    for name in FILES:
        assert (tmp_path / "fetched" / name).read_bytes() == (adapter / name).read_bytes()


def test_run_without_an_adapter_source_has_none(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    bench.run()
    assert load_run_file(store, layout).adapter is None


def test_auto_is_what_it_stands_for(bench: Workbench, store: ObjectStore, layout: RunLayout) -> None:
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    write_adapter_folder(
        bench.folder / "adapters/law", lora_tensors(targets=every), target_modules="all-linear"
    )
    bench.run(**source(bench), method__lora={"rank": 4, "alpha": 8})
    assert adapter_of(store, layout).digest


def test_dropout_is_the_jobs_own(bench: Workbench, adapter: Path) -> None:
    lora = {**FITTING["method__lora"], "dropout": 0.3}
    assert bench.run(**source(bench), method__lora=lora).reason == "Prepared"


def test_quantized_base_takes_a_lora_adapter(bench: Workbench, adapter: Path) -> None:
    assert bench.run(**source(bench), **FITTING, method__type="QLoRA").reason == "Prepared"


def test_adapter_that_changed_after_prepare_is_refused(
    bench: Workbench, adapter: Path, store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    bench.run(**source(bench), **FITTING)
    write_adapter_folder(adapter, lora_alpha=16)
    with pytest.raises(
        UserError, match=r"The adapter at s3://.* was changed after this run was prepared \(adapter_con"
    ):
        fetch_adapter(store, adapter_of(store, layout), tmp_path / "fetched")


# --- from elsewhere ----------------------------------------------------------------------------------------------


def test_adapter_of_a_hub_comes_into_the_store_at_its_commit(
    bench: Workbench,
    store: ObjectStore,
    layout: RunLayout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect_directly(monkeypatch)
    folder = write_adapter_folder(tmp_path / "published")
    (folder / "README.md").write_text("An adapter.")
    (folder / "optimizer.pt").write_bytes(b"pickled")
    with HuggingFaceHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        commit = hub.commit("org/law", {path.name: path.read_bytes() for path in folder.iterdir()})
        bench.run(model__adapterSource="hf://org/law", **FITTING)
        facts = adapter_of(store, layout)
        downloads = len(hub.content.seen)
        bench.run(uid="fedcba9876543210", model__adapterSource="hf://org/law", **FITTING)
        # The configuration is looked at again; the weights are in the store.
        assert len(hub.content.seen) <= downloads + 1

    assert facts.described == f"hf://org/law at {commit}"
    assert facts.uri.startswith(f"{layout.root}/.cache/models/")
    assert {info.name for info in store.list_objects(facts.uri)} == {*FILES, "manifest.json"}
    fetch_adapter(store, facts, tmp_path / "fetched")
    assert {path.name for path in (tmp_path / "fetched").iterdir()} == FILES


def test_adapter_on_a_claim_comes_into_the_store(
    bench: Workbench, store: ObjectStore, layout: RunLayout, config_directory: Path
) -> None:
    write_adapter_folder(Path(names.claim_directory("adapters")) / "law")
    bench.run(model__adapterSource="pvc://adapters/law", **FITTING)
    facts = adapter_of(store, layout)
    assert (facts.source, facts.revision) == ("pvc://adapters/law", None)
    assert facts.uri.startswith(f"{layout.root}/.cache/models/")


def test_claim_without_the_folder_names_the_field(bench: Workbench, config_directory: Path) -> None:
    Path(names.claim_directory("adapters"), "tax").mkdir(parents=True)
    with pytest.raises(UserError) as refusal:
        bench.run(model__adapterSource="pvc://adapters/law", **FITTING)
    assert refusal.value.message == (
        "PersistentVolumeClaim 'adapters' has no folder 'law' (it has tax). Put the adapter there, as save_pretrained "
        "writes it, or correct model.adapterSource."
    )


# --- what is refused ---------------------------------------------------------------------------------------------

Damage = Callable[[Path], object]


def written(tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Damage:
    return lambda folder: write_adapter_folder(folder, tensors, **config)


SETTING = "is another adapter than this job asks for: "
THEN = ". Set what it has, or remove model.adapterSource to start a new one."
REFUSED: dict[str, tuple[Damage, dict[str, Any], str]] = {
    "no folder": (
        shutil.rmtree,
        {},
        "has no adapter_config.json. Name a folder as peft's save_pretrained writes it: adapter_config.json and "
        "adapter_model.safetensors.",
    ),
    "a model instead of an adapter": (
        lambda folder: (folder / "adapter_config.json").rename(folder / "config.json"),
        {},
        "has no adapter_config.json (it holds adapter_model.safetensors, config.json). Name a folder as peft's "
        "save_pretrained writes it: adapter_config.json and adapter_model.safetensors.",
    ),
    "pickled weights": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        {},
        "has no adapter_model.safetensors, only pickled weights (adapter_model.bin), which can run code when they are "
        "loaded. Name a folder as peft's save_pretrained writes it: adapter_config.json and adapter_model.safetensors.",
    ),
    "a configuration that is none": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        {},
        "/adapter_config.json cannot be read (file: Invalid JSON: EOF while parsing an object at line 1 column 1). Save "
        "the adapter again with peft's save_pretrained, or remove model.adapterSource.",
    ),
    "a rank that is a word": (
        written(r="four"),
        {},
        "/adapter_config.json cannot be read (r: Input should be a valid integer, unable to parse string as an "
        "integer). Save the adapter again with peft's save_pretrained, or remove model.adapterSource.",
    ),
    "another method": (
        written(peft_type="IA3"),
        {},
        "is an adapter of type IA3, but method.type is LoRA. Set method.type: IA3, or remove model.adapterSource.",
    ),
    "a method that is not done here": (
        written(peft_type="OFT"),
        {},
        "is an adapter of type OFT, but method.type is LoRA. Name another adapter, or remove model.adapterSource.",
    ),
    "a LoRA adapter for AdaLoRA": (
        written(),
        {"method": {"type": "AdaLoRA"}},
        "is an adapter of type LORA, but method.type is AdaLoRA. Set method.type: LoRA or QLoRA, or remove "
        "model.adapterSource.",
    ),
    "another task": (
        written(task_type="SEQ_CLS"),
        {},
        "was trained for the task SEQ_CLS, but task is CausalLM. Set that task, or remove model.adapterSource.",
    ),
    "another rank and another alpha": (
        written(),
        {"method__lora": {"targetModules": ["q_proj", "v_proj"]}},
        f"{SETTING}its method.lora.rank is 4, this job's 16; its method.lora.alpha is 8, this job's 32{THEN}",
    ),
    "another variant": (
        written(use_rslora=True),
        {},
        f"{SETTING}its method.lora.variant is RSLoRA, this job's Standard{THEN}",
    ),
    "modules that were trained whole": (
        written(modules_to_save=["lm_head", "embed_tokens"]),
        {},
        f"{SETTING}its method.lora.fullyTrainedModules is [embed_tokens, lm_head], this job's []{THEN}",
    ),
    "other layers": (
        written(),
        {"method__lora": {"rank": 4, "alpha": 8}},
        f"{SETTING}its method.lora.targetModules are [q_proj, v_proj], this job's [down_proj, gate_proj, k_proj, o_proj, "
        f"q_proj, up_proj, v_proj]{THEN}",
    ),
    "layers of one block only": (
        written({name: data for name, data in lora_tensors().items() if ".layers.1." in name}),
        {},
        f"{SETTING}it lacks 0.self_attn.q_proj.lora_A.weight, unlike what method.lora.targetModules stands for in this "
        f"job{THEN}",
    ),
    "another base model": (
        written(lora_tensors(hidden=32)),
        {},
        "is of another base model: its 0.self_attn.q_proj.lora_A.weight is 4 x 32, model.source needs 4 x 16. Set "
        "model.source to the model that the adapter was trained on, or remove model.adapterSource.",
    ),
    "an adapter that began by changing the base model": (
        written(init_lora_weights="pissa_niter_4"),
        {},
        "cannot be gone on from: it was started from changed weights of the base model (init_lora_weights "
        "pissa_niter_4). Merge it into the base model and name that as model.source, or remove model.adapterSource.",
    ),
    "ranks that differ": (
        written(rank_pattern={"q_proj": 8}),
        {},
        "cannot be gone on from: its ranks differ from layer to layer (rank_pattern). Merge it into the base model and "
        "name that as model.source, or remove model.adapterSource.",
    ),
    "biases": (
        written(bias="all"),
        {},
        "cannot be gone on from: it trains biases. Merge it into the base model and name that as model.source, or "
        "remove model.adapterSource.",
    ),
    "another number of virtual tokens": (
        written(
            {"prompt_embeddings": np.zeros((8, 16), np.float32)}, peft_type="PROMPT_TUNING", num_virtual_tokens=8
        ),
        {"method": {"type": "PromptTuning"}},
        f"{SETTING}its method.promptTuning.virtualTokens is 8, this job's 20{THEN}",
    ),
    "virtual tokens of another width": (
        written(
            {"prompt_embeddings": np.zeros((20, 32), np.float32)}, peft_type="PROMPT_TUNING", num_virtual_tokens=20
        ),
        {"method": {"type": "PromptTuning"}},
        "is of another base model: its prompt_embeddings is 20 x 32, model.source needs 20 x 16. Set model.source to "
        "the model that the adapter was trained on, or remove model.adapterSource.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_adapter_that_does_not_fit_is_refused_with_a_sentence(
    bench: Workbench, adapter: Path, case: str, store: ObjectStore, layout: RunLayout
) -> None:
    damage, changes, sentence = REFUSED[case]
    damage(adapter)
    with pytest.raises(UserError) as refusal:
        bench.run(
            **{**source(bench), **FITTING, **changes}
            if "method" not in changes
            else {**source(bench), **changes}
        )
    assert refusal.value.message.removeprefix("model.adapterSource ") == (
        f"s3://{bench.bucket}/adapters/law{'' if sentence.startswith('/') else ' '}{sentence}"
    )
    assert not store.exists(layout.run_file_uri)


CLASSIFIES: dict[str, Any] = {"task": "SequenceClassification", "labels": ["good", "bad"]}
ROWS = [{"text": f"text {number}", "label": ("good", "bad")[number % 2]} for number in range(20)]


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        pytest.param(
            {}, "has no head, but the 2 labels of this job on model.source need 2 x 16", id="no head"
        ),
        pytest.param(
            {"base_model.model.score.weight": np.zeros((3, 16), np.float32)},
            "has a head of 3 x 16, but the 2 labels of this job on model.source need 2 x 16",
            id="another number of labels",
        ),
    ],
)
def test_a_head_for_other_labels_is_refused(
    bench: Workbench, adapter: Path, head: dict[str, np.ndarray], sentence: str
) -> None:
    bench.write_rows(ROWS)
    write_adapter_folder(
        adapter, {**lora_tensors(), **head}, task_type="SEQ_CLS", modules_to_save=["classifier", "score"]
    )
    with pytest.raises(UserError, match=f"{sentence}. Set the labels that it was trained on, or remove"):
        bench.run(**source(bench), **FITTING, **CLASSIFIES)


def test_a_classifier_goes_on_from_its_own_head(
    bench: Workbench, adapter: Path, store: ObjectStore, layout: RunLayout
) -> None:
    bench.write_rows(ROWS)
    head = {"base_model.model.score.weight": np.zeros((2, 16), np.float32)}
    write_adapter_folder(
        adapter, {**lora_tensors(), **head}, task_type="SEQ_CLS", modules_to_save=["classifier", "score"]
    )
    bench.run(**source(bench), **FITTING, **CLASSIFIES)
    run_file = load_run_file(store, layout)
    assert run_file.adapter is not None
    # Two blocks, two layers each, rank 4 between 16 and 16; and a head of two labels.
    assert run_file.method.trainable_count == 2 * 2 * 4 * (16 + 16) + 2 * 16
