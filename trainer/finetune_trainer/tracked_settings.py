"""The hyper-parameters that trackers show: the job's spec with its defaults, flat, without anything secret. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from finetune_api.spec import FineTuneJobSpec

Setting = str | int | float | bool

# `env` may hold a proxy with its password. References name Secrets, which are nobody's business outside the namespace.
_LEFT_OUT = frozenset({"env", "imagePullSecrets"})
_LEFT_OUT_SUFFIX = "secretref"
# Long texts, such as system prompts, are cut: MLflow refuses values over 6,000 characters.
_SHOWN_CHARACTERS = 500


def describe_settings(
    spec: FineTuneJobSpec, *, resolved: Mapping[str, Setting], environment: Mapping[str, Setting]
) -> dict[str, Setting]:
    """Name every setting as users write it (`training.learningRate`); then what became of it, and what it runs on."""
    written = dict(_flatten("", spec.model_dump(mode="json", by_alias=True, exclude_none=True)))
    return {
        **written,
        **{f"resolved.{name}": value for name, value in resolved.items()},
        **{f"environment.{name}": value for name, value in environment.items()},
    }


def _flatten(path: str, value: object) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, dict):
        for name, part in value.items():
            if not _is_left_out(name):
                yield from _flatten(f"{path}.{name}" if path else name, part)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            yield from _flatten(f"{path}.{number}", part)
    elif isinstance(value, list):
        yield path, _cut(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, bool | int | float):
        yield path, value
    else:
        yield path, _cut(str(value))


def _is_left_out(name: str) -> bool:
    return name in _LEFT_OUT or name.lower().endswith(_LEFT_OUT_SUFFIX)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
