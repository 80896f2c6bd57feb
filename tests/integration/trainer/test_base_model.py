"""Base models from hubs and claims on their way into the store: once, verified, checked before a weight is fetched."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune_api import names
from finetune_api.layout import RunLayout
from finetune_api.spec import FineTuneJobSpec, Store
from finetune_trainer import base_model
from finetune_trainer.base_model import StoredModel, ensure_base_model
from finetune_trainer.errors import ObjectDamaged, StorageDenied, StorageUnavailable, UserError
from finetune_trainer.fetching import fetch_base_model
from finetune_trainer.hubs.retrying import Patience
from finetune_trainer.model_files import inspect_model
from finetune_trainer.storage import ObjectStore
from tests.builders.jobs import make_manifest
from tests.builders.model_folders import make_tensors, write_model_folder
from tests.integration.trainer.conftest import mount_secret
from tests.stand_ins.hub_server import connect_directly
from tests.stand_ins.hugging_face_hub import HuggingFaceHub
from tests.stand_ins.model_scope_hub import ModelScopeHub

SOURCE = "hf://Qwen/tiny"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
IMPATIENT = Patience(total_seconds=0.3, first_wait_seconds=0.01, longest_wait_seconds=0.05)


class Bench:
    """A bucket, a hub with one model in two shards, and jobs that start from it."""

    def __init__(
        self, hub: HuggingFaceHub, folder: Path, layout: RunLayout, settings: Store, work: Path
    ) -> None:
        self.hub = hub
        self.folder = folder
        self.layout = layout
        self.store = ObjectStore.open(settings, max_attempts=2)
        self._settings = settings
        self._work = work

    def publish(self) -> str:
        """Commit what is in the folder."""
        files = {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        return self.hub.commit("Qwen/tiny", files)

    def spec(self, **changes: Any) -> FineTuneJobSpec:
        """A job on the model."""
        store = self._settings.model_dump(mode="json", exclude_none=True)
        wanted = {"model__source": SOURCE, "output__uri": self.layout.root, "output__store": store, **changes}
        return FineTuneJobSpec.model_validate(make_manifest(**wanted)["spec"])

    def ensure(self, patience: Patience = IMPATIENT, **changes: Any) -> StoredModel:
        """What prepare does first, in an empty work folder."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        return ensure_base_model(self.spec(**changes), self.layout, self.open_store, self._work, patience)

    def open_store(self, settings: Store) -> ObjectStore:
        """The bench's own client."""
        assert settings == self._settings
        return self.store

    def names_in(self, stored: StoredModel) -> set[str]:
        """The objects of the model."""
        return {info.name for info in self.store.list_objects(stored.uri)}


def into_shards(folder: Path) -> None:
    """Save the weights of a model's folder in two files, with an index."""
    tensors = make_tensors()
    (folder / "model.safetensors").unlink()
    ordered = sorted(tensors)
    halves = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    for name, half in zip(SHARDS, halves, strict=True):
        save_file({tensor: tensors[tensor] for tensor in half}, folder / name, metadata={"format": "pt"})
    index = {tensor: name for name, half in zip(SHARDS, halves, strict=True) for tensor in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.fixture
def bench(
    layout: RunLayout, store_settings: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """The bench, its model published."""
    connect_directly(monkeypatch)
    folder = write_model_folder(tmp_path / "model")
    into_shards(folder)
    (folder / "README.md").write_text("A model.")
    (folder / "modeling.py").write_text("raise SystemExit")
    with HuggingFaceHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        bench = Bench(hub, folder, layout, store_settings, tmp_path / "work")
        bench.publish()
        yield bench


# --- what arrives ----------------------------------------------------------------------------------------------


def test_a_hubs_model_comes_into_the_store_and_is_read_from_there(bench: Bench, tmp_path: Path) -> None:
    stored = bench.ensure()

    assert stored.uri.startswith(f"{bench.layout.root}/.cache/models/")
    assert (stored.origin, stored.revision) == (SOURCE, bench.hub.commit_of("Qwen/tiny"))
    assert bench.names_in(stored) == {
        *SHARDS, "manifest.json", "chat_template.jinja", "config.json", "model.safetensors.index.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    facts = inspect_model(bench.store, stored.uri, bench.spec().method, origin=stored.origin).facts
    fetch_base_model(bench.store, facts, tmp_path / "fetched")
    for path in (tmp_path / "fetched").iterdir():
        assert path.read_bytes() == (bench.folder / path.name).read_bytes()
    assert facts.source == SOURCE


def test_the_manifest_has_every_file_with_its_hash(bench: Bench) -> None:
    stored = bench.ensure()
    manifest = json.loads(bench.store.read_bytes(f"{stored.uri}/manifest.json"))

    from finetune_trainer.file_entries import file_entry

    expected = [
        file_entry(bench.folder / name, bench.folder).model_dump(by_alias=True)
        for name in sorted(bench.names_in(stored) - {"manifest.json"})
    ]
    assert sorted(manifest["files"], key=lambda entry: entry["name"]) == expected
    assert stored.uri.endswith(manifest["digest"])


def test_the_pods_disk_holds_one_file_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[set[str]] = []
    upload = ObjectStore.upload_file

    def watched(self: ObjectStore, path: Path, uri: str) -> None:
        held.append({each.name for each in path.parent.iterdir() if each.name in SHARDS})
        upload(self, path, uri)

    monkeypatch.setattr(ObjectStore, "upload_file", watched)
    bench.ensure()

    assert [each for each in held if each] == [{SHARDS[0]}, {SHARDS[1]}]


def test_a_second_job_downloads_nothing(bench: Bench) -> None:
    first = bench.ensure()
    bench.hub.seen.clear()
    bench.hub.content.seen.clear()

    assert bench.ensure(model__revision="main") == first
    assert {each.path.split("/")[1] for each in bench.hub.seen} == {"api"}
    assert bench.hub.content.seen == []


def test_another_version_is_another_model(bench: Bench) -> None:
    first = bench.ensure()
    (bench.folder / "config.json").write_text((bench.folder / "config.json").read_text() + "\n")
    bench.publish()
    second = bench.ensure()

    assert second.uri != first.uri
    assert second.revision != first.revision
    assert bench.ensure(model__revision=first.revision) == first


def test_only_the_shards_that_the_index_names_are_fetched(bench: Bench) -> None:
    """Mistral's repositories hold all weights a second time, in another format."""
    (bench.folder / "consolidated.safetensors").write_bytes(b"x" * 10_000)
    bench.publish()

    assert "consolidated.safetensors" not in bench.names_in(bench.ensure())
    assert not [each for each in bench.hub.seen if "consolidated" in each.path]


def test_a_gated_model_is_read_with_the_token_of_the_secret(bench: Bench, config_directory: Path) -> None:
    bench.hub.gate("Qwen/tiny", readers={"hf_approved"})
    mount_secret(config_directory, "hub", token="hf_approved\n")

    assert bench.ensure(model__tokenSecretRef={"name": "hub"}).uri
    with pytest.raises(UserError, match="Key other of Secret 'hub' is missing; the Secret has token"):
        bench.ensure(model__tokenSecretRef={"name": "hub", "key": "other"})
    with pytest.raises(UserError, match=r"Secret 'none' of model\.tokenSecretRef is not mounted"):
        bench.ensure(model__tokenSecretRef={"name": "none"})


def test_a_model_of_modelscope_comes_into_the_store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in bench.folder.iterdir()}
    with ModelScopeHub() as hub:
        commit = hub.commit("Qwen/tiny", files)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.endpoint)
        stored = bench.ensure(model__source="modelscope://Qwen/tiny")

    assert stored.revision == commit
    assert set(SHARDS) < bench.names_in(stored)


def test_a_model_that_is_in_the_store_stays_where_it_is(bench: Bench) -> None:
    source = f"{bench.layout.root}/base"
    stored = bench.ensure(model__source=f"{source}/")

    assert (stored.uri, stored.revision) == (source, None)
    assert bench.hub.seen == []


# --- shards that are damaged -----------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_shard_is_caught(bench: Bench) -> None:
    bench.hub.content.damage(1000, to="repos", times=99)

    with pytest.raises(ObjectDamaged, match=rf"{SHARDS[0]} of {SOURCE} does not have the SHA-256"):
        bench.ensure()
    assert not [info for info in bench.store.list_objects(bench.layout.root) if info.name.endswith(SHARDS)]


def test_a_bit_that_flips_on_the_way_costs_a_second_fetch(bench: Bench) -> None:
    bench.hub.content.damage(1000, to="repos", times=1)

    assert set(SHARDS) < bench.names_in(bench.ensure())


# --- attempts that broke off -----------------------------------------------------------------------------------


def test_a_later_attempt_fetches_only_what_is_missing(bench: Bench) -> None:
    bench.hub.answer(503, to=f"/resolve/.*/{SHARDS[1]}", times=1, headers={"Retry-After": "86400"})
    with pytest.raises(StorageUnavailable):
        bench.ensure()
    bench.hub.seen.clear()

    stored = bench.ensure()
    fetched = {each.path.rpartition("/")[2] for each in bench.hub.seen if "/resolve/" in each.path}
    assert SHARDS[0] not in fetched
    assert SHARDS[1] in fetched
    assert "arrivals.json" not in bench.names_in(stored)


def test_an_object_that_was_replaced_meanwhile_is_fetched_anew(bench: Bench) -> None:
    bench.hub.answer(503, to=f"/resolve/.*/{SHARDS[1]}", times=1, headers={"Retry-After": "86400"})
    with pytest.raises(StorageUnavailable):
        bench.ensure()
    (shard,) = (info for info in bench.store.list_objects(bench.layout.root) if info.name.endswith(SHARDS[0]))
    bench.store.write_bytes(shard.uri, b"x" * shard.size_bytes)

    stored = bench.ensure()
    assert bench.store.read_bytes(f"{stored.uri}/{SHARDS[0]}") == (bench.folder / SHARDS[0]).read_bytes()


@pytest.mark.parametrize(
    "name", [pytest.param("manifest.json", id="manifest"), pytest.param("arrivals.json", id="arrivals")]
)
@pytest.mark.parametrize("content", [b"{", b"{}", b'{"digest": "0"}'])
def test_what_a_broken_attempt_left_is_overwritten(bench: Bench, name: str, content: bytes) -> None:
    stored = bench.ensure()
    bench.store.delete_folder(stored.uri)
    bench.store.write_bytes(f"{stored.uri}/{name}", content)
    bench.store.write_bytes(f"{stored.uri}/{SHARDS[0]}", b"half")

    assert bench.ensure() == stored
    assert bench.store.read_bytes(f"{stored.uri}/{SHARDS[0]}") == (bench.folder / SHARDS[0]).read_bytes()
    assert json.loads(bench.store.read_bytes(f"{stored.uri}/manifest.json"))["files"]


def test_a_model_of_which_an_object_was_lost_is_brought_again(bench: Bench) -> None:
    stored = bench.ensure()
    bench.store.delete([f"{stored.uri}/{SHARDS[1]}"])

    assert bench.ensure() == stored
    assert SHARDS[1] in bench.names_in(stored)


def test_two_jobs_bring_the_same_model_at_the_same_time(bench: Bench, tmp_path: Path) -> None:
    stored: list[StoredModel] = []

    def bring(number: int) -> None:
        work = tmp_path / f"work-{number}"
        stored.append(ensure_base_model(bench.spec(), bench.layout, ObjectStore.open, work, IMPATIENT))

    threads = [threading.Thread(target=bring, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(stored) == 3
    assert len(set(stored)) == 1
    facts = inspect_model(bench.store, stored[0].uri, bench.spec().method).facts
    fetch_base_model(bench.store, facts, tmp_path / "fetched")
    assert (tmp_path / "fetched" / SHARDS[0]).read_bytes() == (bench.folder / SHARDS[0]).read_bytes()


def test_a_job_whose_model_another_one_brings_meanwhile_stops_fetching(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = base_model.is_complete, iter([False, False, True])
    monkeypatch.setattr(base_model, "is_complete", lambda *arguments: next(asked, None) or whole(*arguments))
    bench.ensure()

    assert bench.hub.content.seen == []


def test_a_store_that_refuses_says_so(bench: Bench, config_directory: Path) -> None:
    mount_secret(config_directory, "s3-credentials", AWS_SECRET_ACCESS_KEY="wrong")

    with pytest.raises(StorageDenied):
        bench.ensure()


# --- what is refused before a weight is fetched ----------------------------------------------------------------


def _config(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        weights = {name: (folder / name).read_bytes() for name in SHARDS}
        write_model_folder(folder, **changes)
        (folder / "model.safetensors").unlink()
        for name, data in weights.items():
            (folder / name).write_bytes(data)

    return change


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def _only(*kept: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()

    return change


def _add(name: str, *, without_weights: bool) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for shard in SHARDS if without_weights else ():
            (folder / shard).unlink()
        (folder / name).write_bytes(b"x")

    return change


def _index(**changes: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        path.write_text(json.dumps({"weight_map": {**index["weight_map"], **changes}}))

    return change


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "code of its own": (
        _config(auto_map={"AutoModel": "modeling.X"}),
        r"hf://Qwen/tiny/config\.json asks for code of its own \(auto_map\), which is never run",
    ),
    "quantised weights": (
        _config(quantization_config={"quant_method": "awq"}),
        r"hf://Qwen/tiny/config\.json describes quantised weights .* Name the unquantised model",
    ),
    "another task": (
        _config(architectures=["BertModel"]),
        r"config\.json of hf://Qwen/tiny names the architectures BertModel; only causal language models",
    ),
    "soft-capped logits": (_config(final_logit_softcapping=30.0), "asks for soft-capped output logits"),
    "pickled weights only": (
        _add("pytorch_model.bin", without_weights=True),
        r"hf://Qwen/tiny has no \.safetensors file, only pickled weights \(pytorch_model\.bin\), which can run code "
        r"when they are loaded\. Only safetensors weights are read; convert others with .* Or set model\.source",
    ),
    "GGUF weights beside the configuration": (
        _add("model-q4.gguf", without_weights=True),
        r"has no \.safetensors file, only GGUF \(model-q4\.gguf\)",
    ),
    "GGUF only": (
        lambda folder: (_only()(folder), (folder / "model-q4.gguf").write_bytes(b"x")),
        r"has no config\.json\. It holds GGUF files, .*; name the model that they were made from",
    ),
    "an adapter": (
        _rename("config.json", "adapter_config.json"),
        "It holds an adapter; name the base model instead",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"hf://Qwen/tiny has no tokenizer\.json.* Or set model\.source to another model",
    ),
    "a missing shard": (
        lambda folder: (folder / SHARDS[1]).unlink(),
        rf"names 1 files that are not there: {SHARDS[1]}\. Set model\.source to another model",
    ),
    "shards without an index": (
        lambda folder: (folder / "model.safetensors.index.json").unlink(),
        r"has neither model\.safetensors nor model\.safetensors\.index\.json",
    ),
    "an index that names a pickle": (
        lambda folder: (_add("extra.bin", without_weights=False)(folder), _index(extra="extra.bin")(folder)),
        r"names extra\.bin, which is no \.safetensors file beside it",
    ),
    "a shard whose name cannot be kept": (
        lambda folder: (
            _rename(SHARDS[0], "model (1).safetensors")(folder),
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "model (1).safetensors"}})
            ),
        ),
        r"has a file named 'model \(1\)\.safetensors'",
    ),
    "a configuration that is none": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"hf://Qwen/tiny/config\.json cannot be read \(Invalid JSON.*Set model\.source to another model",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_refused_before_its_weights_are_fetched(bench: Bench, case: str) -> None:
    damage, sentence = BAD_MODELS[case]
    damage(bench.folder)
    bench.publish()

    with pytest.raises(UserError, match=sentence):
        bench.ensure()
    assert bench.hub.content.seen == []
    assert bench.store.list_objects(f"{bench.layout.cache_uri}/models") == []


def test_an_empty_repository_is_refused(bench: Bench) -> None:
    bench.hub.commit("Qwen/tiny", {})

    with pytest.raises(UserError, match=r"hf://Qwen/tiny holds no files\. Correct model\.source"):
        bench.ensure()


def test_a_shard_larger_than_the_prepare_pods_disk_is_refused_before_it_is_fetched(bench: Bench) -> None:
    with pytest.raises(
        UserError, match=rf"resources\.prepare\.ephemeralStorage 10Ki is too small: {SHARDS[0]} of hf://"
    ):
        bench.ensure(resources__prepare={"ephemeralStorage": "10Ki"})
    assert bench.hub.content.seen == []


# --- claims ----------------------------------------------------------------------------------------------------


@pytest.fixture
def claim(bench: Bench, config_directory: Path) -> Path:
    """A mounted claim with the model in a folder."""
    mounted = Path(names.claim_directory("models"))
    shutil.copytree(bench.folder, mounted / "qwen/tiny")
    return mounted


def test_a_model_on_a_claim_comes_into_the_store(bench: Bench, claim: Path, tmp_path: Path) -> None:
    stored = bench.ensure(model__source="pvc://models/qwen/tiny/")

    assert (stored.origin, stored.revision) == ("pvc://models/qwen/tiny", None)
    facts = inspect_model(bench.store, stored.uri, bench.spec().method, origin=stored.origin).facts
    fetch_base_model(bench.store, facts, tmp_path / "fetched")
    assert (tmp_path / "fetched" / SHARDS[1]).read_bytes() == (bench.folder / SHARDS[1]).read_bytes()
    assert {path.name for path in (claim / "qwen/tiny").iterdir()} == {
        path.name for path in bench.folder.iterdir()
    }
    assert bench.ensure(model__source="pvc://models/qwen/tiny") == stored


def test_a_whole_claim_may_be_a_model(bench: Bench, config_directory: Path) -> None:
    shutil.copytree(bench.folder, names.claim_directory("models"))

    assert set(SHARDS) < bench.names_in(bench.ensure(model__source="pvc://models"))


def test_links_within_the_claim_are_followed(bench: Bench, claim: Path) -> None:
    """Hugging Face's own cache is such a folder: names that link to contents."""
    snapshot, blobs = claim / "snapshot", claim / "blobs"
    snapshot.mkdir()
    (claim / "qwen/tiny").rename(blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../blobs/{path.name}")

    assert set(SHARDS) < bench.names_in(bench.ensure(model__source="pvc://models/snapshot"))


def test_other_bytes_on_the_claim_are_another_model(bench: Bench, claim: Path) -> None:
    first = bench.ensure(model__source="pvc://models/qwen/tiny")
    path = claim / "qwen/tiny" / SHARDS[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\1")

    assert bench.ensure(model__source="pvc://models/qwen/tiny").uri != first.uri


def _link_out(claim: Path) -> None:
    outside = claim.parent / "token"
    outside.write_text("secret")
    (claim / "qwen/tiny/tokenizer.json").unlink()
    (claim / "qwen/tiny/tokenizer.json").symlink_to(outside)


def _link_folder_out(claim: Path) -> None:
    shutil.rmtree(claim / "qwen")
    (claim / "qwen").symlink_to(claim.parent)


def _link_in_a_circle(claim: Path) -> None:
    (claim / "qwen/tiny/config.json").unlink()
    (claim / "qwen/tiny/config.json").symlink_to("config.json")


def _one_folder_lower(claim: Path) -> None:
    (claim / "qwen/tiny").rename(claim / "moved")
    (claim / "qwen/tiny").mkdir()
    (claim / "moved").rename(claim / "qwen/tiny/v2")


BAD_CLAIMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link out of the claim": (
        _link_out,
        r"pvc://models/qwen/tiny/tokenizer\.json leads out of the claim by a symbolic link",
    ),
    "a folder that links out of the claim": (_link_folder_out, "leads out of the claim by a symbolic link"),
    "a link to itself": (_link_in_a_circle, r"tiny/config\.json leads nowhere"),
    "a folder too high": (_one_folder_lower, "There is one in the folder v2: add it to the URI"),
    "no folder": (
        lambda claim: (claim / "qwen").rename(claim / "other"),
        r"PersistentVolumeClaim 'models' has no folder 'qwen/tiny' \(it has other\)",
    ),
    "no claim": (
        shutil.rmtree,
        "PersistentVolumeClaim 'models' of model.source pvc://models/qwen/tiny is not mounted at",
    ),
    "a missing shard": (
        lambda claim: (claim / "qwen/tiny" / SHARDS[1]).unlink(),
        "names 1 files that are not there: .* Upload them",
    ),
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_a_bad_claim_is_refused_with_a_sentence(bench: Bench, claim: Path, case: str) -> None:
    damage, sentence = BAD_CLAIMS[case]
    damage(claim)

    with pytest.raises(UserError, match=sentence):
        bench.ensure(model__source="pvc://models/qwen/tiny")
    assert bench.store.list_objects(f"{bench.layout.cache_uri}/models") == []


# --- what the attempts do with it ------------------------------------------------------------------------------


def test_a_copy_that_was_removed_after_prepare_is_named_as_such(bench: Bench, tmp_path: Path) -> None:
    stored = bench.ensure()
    facts = inspect_model(bench.store, stored.uri, bench.spec().method, origin=stored.origin).facts
    bench.store.delete([f"{stored.uri}/{SHARDS[0]}"])

    with pytest.raises(UserError, match=rf"It is the store's copy of {SOURCE}: delete and re-apply"):
        fetch_base_model(bench.store, facts, tmp_path / "fetched")


def test_sentences_about_the_copy_name_the_model_as_the_job_does(bench: Bench) -> None:
    path = bench.folder / SHARDS[0]
    save_file({"extra": np.zeros(4, np.int8)}, path)
    (bench.folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"extra": SHARDS[0]}})
    )
    bench.publish()
    stored = bench.ensure()

    with pytest.raises(UserError, match=rf"Tensor extra of {SOURCE} has the type I8"):
        inspect_model(bench.store, stored.uri, bench.spec().method, origin=stored.origin)
