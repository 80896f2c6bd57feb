"""The Secrets, ConfigMaps and claims a spec names, with the fields that name them: what to mount, and what to blame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from finetune_api import names
from finetune_api.names import Stage
from finetune_api.spec import DataSource, FineTuneJobSpec, Store

CONFIG_MAP_SCHEME, CLAIM_SCHEME = "configMap://", "pvc://"


class ReferenceKind(StrEnum):
    """What is referred to."""

    SECRET = "Secret"  # noqa: S105 (a kind of object)
    CONFIG_MAP = "ConfigMap"
    CLAIM = "PersistentVolumeClaim"


@dataclass(frozen=True)
class Reference:
    """One object of the job's namespace, the field of the spec that names it, and where the pod finds it."""

    kind: ReferenceKind
    name: str
    field: str
    mount_path: str


def list_references(spec: FineTuneJobSpec, stage: Stage) -> tuple[Reference, ...]:
    """List what a stage's pod must mount, each object once: by the first field that names it."""
    unique: dict[str, Reference] = {}
    for reference in _find(spec, stage):
        unique.setdefault(reference.mount_path, reference)
    return tuple(unique.values())


def _find(spec: FineTuneJobSpec, stage: Stage) -> Iterator[Reference]:
    yield from _of_store("spec.output.store", spec.output.store)
    if stage is Stage.CLEANUP:
        return  # A data set that is gone must not keep a run's folder from being removed.
    yield from _of_model(spec, stage)
    if stage is Stage.PREPARE:
        yield from _of_dataset(spec)
    if stage is Stage.TRAIN:
        yield from _of_tracking(spec)


def _of_store(field: str, store: Store | None) -> Iterator[Reference]:
    if store is not None and (secret := store.credentials_secret_ref):
        yield _secret(secret.name, f"{field}.credentialsSecretRef")
    if store is not None and (bundle := store.ca_bundle_ref):
        path = names.ca_bundle_directory(bundle.name)
        yield Reference(ReferenceKind.CONFIG_MAP, bundle.name, f"{field}.caBundleRef", path)


def _of_model(spec: FineTuneJobSpec, stage: Stage) -> Iterator[Reference]:
    model = spec.model
    yield from _of_store("spec.model.store", model.store)
    if stage is not Stage.PREPARE:
        return  # Hubs and claims are read once, by prepare; the other stages read what it put into the store.
    yield from _of_claim("spec.model.source", model.source)
    yield from _of_claim("spec.model.adapterSource", model.adapter_source)
    if model.token_secret_ref:
        yield _secret(model.token_secret_ref.name, "spec.model.tokenSecretRef")


def _of_dataset(spec: FineTuneJobSpec) -> Iterator[Reference]:
    validation = spec.dataset.validation.sources if spec.dataset.validation else None
    for field, sources in (
        ("spec.dataset.train", spec.dataset.train),
        ("spec.dataset.validation.sources", validation),
        ("spec.dataset.test", spec.dataset.test),
    ):
        for index, source in enumerate(sources or ()):
            yield from _of_source(f"{field}[{index}]", source)
    if augment := spec.dataset.preparation.augment:
        yield from _of_config_map("spec.dataset.preparation.augment.wordList", augment.word_list)


def _of_source(field: str, source: DataSource) -> Iterator[Reference]:
    yield from _of_store(f"{field}.store", source.store)
    yield from _of_claim(f"{field}.source", source.source)
    if source.token_secret_ref:
        yield _secret(source.token_secret_ref.name, f"{field}.tokenSecretRef")
    yield from _of_config_map(f"{field}.source", source.source)


def _of_tracking(spec: FineTuneJobSpec) -> Iterator[Reference]:
    tracking = spec.tracking
    if tracking.tensor_board is not None:
        yield from _of_store("spec.tracking.tensorBoard.store", tracking.tensor_board.store)
    for name, tracker in (
        ("swanLab", tracking.swan_lab),
        ("mlflow", tracking.mlflow),
        ("wandb", tracking.wandb),
    ):
        if tracker is not None and tracker.secret_ref is not None:
            yield _secret(tracker.secret_ref.name, f"spec.tracking.{name}.secretRef")


def _of_claim(field: str, uri: str | None) -> Iterator[Reference]:
    if uri and uri.startswith(CLAIM_SCHEME):
        name = _first_part(uri, CLAIM_SCHEME)
        yield Reference(ReferenceKind.CLAIM, name, field, names.claim_directory(name))


def _of_config_map(field: str, uri: str | None) -> Iterator[Reference]:
    if uri and uri.startswith(CONFIG_MAP_SCHEME):
        name = _first_part(uri, CONFIG_MAP_SCHEME)
        yield Reference(ReferenceKind.CONFIG_MAP, name, field, names.config_map_directory(name))


def _secret(name: str, field: str) -> Reference:
    return Reference(ReferenceKind.SECRET, name, field, names.credentials_directory(name))


def _first_part(uri: str, scheme: str) -> str:
    return uri.removeprefix(scheme).split("/", 1)[0]
