"""The Secrets and ConfigMaps a spec names, with the fields that name them: what to mount, and what to blame."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec, Store

CONFIG_MAP_SCHEME = "configMap://"


class ReferenceKind(StrEnum):
    """What is referred to."""

    SECRET = "Secret"  # noqa: S105 (a kind of object)
    CONFIG_MAP = "ConfigMap"


@dataclass(frozen=True)
class Reference:
    """One object of the job's namespace and the field of the spec that names it."""

    kind: ReferenceKind
    name: str
    field: str


def list_references(spec: FineTuneJobSpec, stage: Stage) -> tuple[Reference, ...]:
    """List what a stage's pod must mount, each object once: by the first field that names it."""
    found = [*_stores(spec, stage), *(_data_config_maps(spec) if stage is Stage.PREPARE else ())]
    unique = {(each.kind, each.name): each for each in reversed(found)}
    return tuple(reversed(unique.values()))


def _stores(spec: FineTuneJobSpec, stage: Stage) -> list[Reference]:
    stores: list[tuple[str, Store | None]] = [
        ("spec.output.store", spec.output.store),
        ("spec.model.store", spec.model.store),
    ]
    if stage is Stage.PREPARE:
        stores += [
            (f"spec.dataset.train[{index}].store", source.store)
            for index, source in enumerate(spec.dataset.train)
        ]
    return [
        Reference(ReferenceKind.SECRET, store.credentials_secret_ref.name, f"{field}.credentialsSecretRef")
        for field, store in stores
        if store and store.credentials_secret_ref
    ]


def _data_config_maps(spec: FineTuneJobSpec) -> list[Reference]:
    return [
        Reference(
            ReferenceKind.CONFIG_MAP,
            source.source.removeprefix(CONFIG_MAP_SCHEME).split("/", 1)[0],
            f"spec.dataset.train[{index}].source",
        )
        for index, source in enumerate(spec.dataset.train)
        if source.source and source.source.startswith(CONFIG_MAP_SCHEME)
    ]
