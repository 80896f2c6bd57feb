"""Where the train pods may run; the CPU stages run wherever there is room."""

from __future__ import annotations

from finetune_api.names import Stage
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.metadata import select_pods
from finetune_operator.manifests.wanted import WantedAttempt


def build_placement(wanted: WantedAttempt) -> JsonObject:
    """Build what the scheduler goes by."""
    if wanted.stage is not Stage.TRAIN:
        return {}
    resources = wanted.spec.resources
    tolerations = [
        toleration.model_dump(mode="json", exclude_none=True) for toleration in resources.tolerations or ()
    ]
    return {
        **({"nodeSelector": dict(resources.node_selector)} if resources.node_selector else {}),
        **({"tolerations": tolerations} if tolerations else {}),
        **({"priorityClassName": resources.priority_class_name} if resources.priority_class_name else {}),
        **({"runtimeClassName": resources.runtime_class_name} if resources.runtime_class_name else {}),
        **_together(wanted),
    }


def _together(wanted: WantedAttempt) -> JsonObject:
    """Keep the pods of a gang within one topology domain.

    The scheduler lets the first pod through, although no other is there yet, because it matches its own term.
    """
    key = wanted.spec.resources.topology_key
    if key is None or not wanted.is_gang:
        return {}
    term = {"topologyKey": key, "labelSelector": {"matchLabels": select_pods(wanted)}}
    return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}
