"""How peft names tensors in an adapter's file: the module's path between a prefix and the method's own ending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from finetune_trainer.errors import UserError

MODULE_PREFIX = "base_model.model."


def group_by_module(names: Iterable[str], endings: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """The modules, as peft names them, that have tensors with these endings, and which; sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        for ending in endings:
            if name.endswith(ending):
                found[name.removesuffix(ending)].add(ending)
    return {module: frozenset(found[module]) for module in sorted(found)}


def base_name(name: str, ending: str = "") -> str:
    """The base's name of what an adapter's file calls `name`."""
    return name.removeprefix(MODULE_PREFIX) + ending


def cannot_merge(name: str, method: str) -> UserError:
    """The answer to a tensor that nobody knows how to merge."""
    return UserError(
        f"The adapter holds {name}, which is not part of {method} as it can be merged. "
        "Set spec.output.merged.enabled to false: the adapter works without merging."
    )
