"""How prepare pods reach Hugging Face and ModelScope in this installation: mirrors, proxies, certificate authorities.

Only pods of jobs that name a hub get it: a proxy on the way to the object store would help nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec

HUB_VARIABLES = (
    *("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"),
    *("MODELSCOPE_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
# Values stand in the pods' specs for everybody to read, so there is no place for `user:password@`.
VALUE_PATTERN = r"^[^\s@]+$"
HUB_SCHEMES = ("hf://", "modelscope://")
# What the hub's client reads as another name of the same.
_OTHER_NAMES = {"MODELSCOPE_DOMAIN": "MODELSCOPE_ENDPOINT"}


class HubAccessError(Exception):
    """The administrator's variables cannot be used."""


@dataclass(frozen=True)
class CABundle:
    """A ConfigMap of the job's namespace, and its key with certificates (PEM)."""

    config_map: str
    key: str


@dataclass(frozen=True)
class HubAccess:
    """The administrator's variables, and the authorities to trust instead of the image's own."""

    environment: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: CABundle | None = None


def parse_hub_environment(text: str) -> dict[str, str]:
    """Parse `{"HF_ENDPOINT": …}`. Raises HubAccessError."""
    try:
        variables = TypeAdapter(dict[str, str]).validate_json(text, strict=True)
    except ValidationError as error:
        # Unquoted: whoever writes it wrong may have written a password into it.
        raise HubAccessError("it is no JSON object with texts") from error
    for name, value in variables.items():
        if name not in HUB_VARIABLES:
            raise HubAccessError(f"{name} is none of {', '.join(HUB_VARIABLES)}")
        if not re.fullmatch(VALUE_PATTERN, value):
            raise HubAccessError(f"the value of {name} must have no space and no user:password@")
    return variables


def asks_hub(spec: FineTuneJobSpec, stage: Stage) -> bool:
    """Whether a stage's pod reads from a hub: prepare alone does, and only where the spec names one."""
    return stage is Stage.PREPARE and any(uri.startswith(HUB_SCHEMES) for uri in _list_sources(spec))


def choose_variables(access: HubAccess, chosen_by_user: Mapping[str, str]) -> dict[str, str]:
    """The administrator's variables that the user has not set, in capitals or not."""
    names = {name.upper() for name in chosen_by_user}
    theirs = {_OTHER_NAMES.get(name, name) for name in names}
    return {name: value for name, value in access.environment.items() if name not in theirs}


def _list_sources(spec: FineTuneJobSpec) -> Iterator[str]:
    yield spec.model.source
    yield spec.model.adapter_source or ""
    dataset = spec.dataset
    held_out = dataset.validation.sources if dataset.validation else None
    for source in (*dataset.train, *(held_out or ()), *(dataset.test or ())):
        yield source.source or ""
