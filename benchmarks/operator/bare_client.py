"""The floor of C-3: the writes that the operator makes for a job, by a client that decides nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from benchmarks.operator.api import Api, path_of
from benchmarks.operator.jobs import first_child
from finetune_api import API_VERSION, KIND, PLURAL

JsonObject = dict[str, Any]
# What the apiserver and the Job controller add of themselves.
_SERVER_METADATA = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "annotations",
)


@dataclass(frozen=True)
class Pattern:
    """What the operator wrote for one job."""

    config_map: JsonObject
    job: JsonObject
    status: JsonObject


class BareClient:
    """Writes the same for other jobs."""

    def __init__(self, api: Api, namespace: str, pattern: Pattern) -> None:
        self._api = api
        self._namespace = namespace
        self._pattern = pattern

    async def write_children(self, owner: JsonObject) -> None:
        """Create a job's ConfigMap and Job, and write its status."""
        metadata = owner["metadata"]
        for plural, pattern in (("configmaps", self._pattern.config_map), ("jobs", self._pattern.job)):
            await self._api.create(plural, _owned(pattern, metadata))
        path = f"{path_of(PLURAL, self._namespace, metadata['name'])}/status"
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": self._pattern.status}
        await self._api.send("PUT", path, body)


async def learn_pattern(api: Api, namespace: str, job_name: str) -> Pattern:
    """Read what the operator wrote for a job."""
    child = first_child(job_name)
    return Pattern(
        _bare(await api.read("configmaps", namespace, child)),
        _bare(await api.read("jobs", namespace, child)),
        (await api.read(PLURAL, namespace, job_name))["status"],
    )


def _bare(found: JsonObject) -> JsonObject:
    """An object as it was sent."""
    bare = copy.deepcopy(found)
    for name in _SERVER_METADATA:
        bare["metadata"].pop(name, None)
    bare.pop("status", None)
    if "template" in bare.get("spec", {}):
        bare["spec"].pop("selector", None)
        bare["spec"]["template"]["metadata"].pop("labels", None)
    return bare


def _owned(pattern: JsonObject, owner: JsonObject) -> JsonObject:
    """The same object for another FineTuneJob."""
    reference = {**pattern["metadata"]["ownerReferences"][0], "name": owner["name"], "uid": owner["uid"]}
    metadata = {
        **pattern["metadata"],
        "name": first_child(owner["name"]),
        "namespace": owner["namespace"],
        "ownerReferences": [reference],
    }
    return {**pattern, "metadata": metadata}
