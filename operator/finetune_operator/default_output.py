"""Where the results of a FineTuneJob without `spec.output` go: the store that the administrator set for all.

The raw spec is completed before it is parsed, so nothing behind the parser knows that output can be left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from finetune_api.base import S3_URI_PATTERN, ApiModel
from finetune_api.spec import OutputStore

RawSpec = Mapping[str, Any]


class DefaultStoreError(Exception):
    """The administrator's default store cannot be used."""


@dataclass(frozen=True)
class DefaultStore:
    """A prefix in a store, and how the store is reached."""

    uri: str
    store: OutputStore


class _Content(ApiModel):
    uri: str
    store: OutputStore = OutputStore()


def parse_default_store(text: str) -> DefaultStore:
    """Parse `{"uri": …, "store": …}`. Raises DefaultStoreError."""
    try:
        content = TypeAdapter(_Content).validate_json(text)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems)
        raise DefaultStoreError(told) from error
    if not re.fullmatch(S3_URI_PATTERN, content.uri):
        raise DefaultStoreError(f"uri {content.uri!r} must be s3://bucket/prefix")
    return DefaultStore(content.uri.rstrip("/"), content.store)


def resolve_output(
    raw_spec: object,
    namespace: str,
    name: str,
    default_store: DefaultStore | None,
    raw_status: object = None,
) -> object:
    """Complete `spec.output` where it names no uri. What cannot be completed is returned as it is.

    A job that has begun stays where its status says that it writes: the administrator's next default is for new jobs.
    """
    if not isinstance(raw_spec, Mapping):
        return raw_spec
    output = raw_spec.get("output") or {}
    if not isinstance(output, Mapping) or output.get("uri"):
        return raw_spec
    resolved = _settled(raw_status) or _for_new(namespace, name, default_store)
    return {**raw_spec, "output": {**resolved, **output}} if resolved else raw_spec


def _for_new(namespace: str, name: str, default: DefaultStore | None) -> dict[str, Any]:
    if default is None:
        return {}
    return {"uri": f"{default.uri}/{namespace}/{name}", "store": _dump(default.store)}


def _settled(raw_status: object) -> dict[str, Any]:
    """The output that status says was resolved."""
    outputs = raw_status.get("outputs") if isinstance(raw_status, Mapping) else None
    if not isinstance(outputs, Mapping) or not isinstance(run_uri := outputs.get("runURI"), str):
        return {}
    uri, separator, _ = run_uri.rpartition("/runs/")
    return {"uri": uri, "store": outputs.get("store") or {}} if separator else {}


def _dump(store: OutputStore) -> dict[str, Any]:
    return store.model_dump(mode="json", exclude_defaults=True)
