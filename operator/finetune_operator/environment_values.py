"""Typed values out of environment variables, and what is said of those that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Literal, TypeVar
from urllib.parse import urlsplit

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
LogFormat = Literal["json", "plain"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
ProgressAuth = Literal["TokenReview", "Jwt"]

METADATA_KEY = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"

Environment = Mapping[str, str]
Choice = TypeVar("Choice", bound=str)


class SettingsError(Exception):
    """A variable of the environment is missing or has a value that cannot be used."""


def text(environment: Environment, name: str, default: str) -> str:
    """The text of a variable."""
    return environment.get(name) or default


def required(environment: Environment, name: str) -> str:
    """The text of a variable that must be set."""
    value = environment.get(name)
    if not value:
        raise SettingsError(
            f"{name} is not set. The chart sets it; set it when you run the operator by hand."
        )
    return value


def listed(environment: Environment, name: str) -> tuple[str, ...]:
    """Names separated by commas or spaces."""
    return tuple(part for part in re.split(r"[,\s]+", environment.get(name, "")) if part)


def boolean(environment: Environment, name: str) -> bool:
    """`true` or `false`; unset is false."""
    value = text(environment, name, "false")
    if value not in ("true", "false"):
        raise SettingsError(f"{name}={value!r} is unknown. Set true or false.")
    return value == "true"


def choice(environment: Environment, name: str, default: Choice, *others: Choice) -> Choice:
    """One of some words."""
    value, known = text(environment, name, default), (default, *others)
    for each in known:
        if value == each:
            return each
    raise SettingsError(f"{name}={value!r} is unknown. Set one of {', '.join(known)}.")


def port(environment: Environment, name: str, default: int) -> int:
    """A TCP port."""
    value = text(environment, name, str(default))
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise SettingsError(f"{name}={value!r} is no port. Set a number from 1 to 65535.")
    return int(value)


def seconds(environment: Environment, name: str, default: float, at_least: float = 0.0) -> timedelta:
    """A length of time."""
    value = text(environment, name, str(default))
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) or float(value) <= 0 or float(value) < at_least:
        bound = f"of at least {at_least:g}" if at_least else "above 0"
        raise SettingsError(f"{name}={value!r} is no number of seconds {bound}. Set one.")
    return timedelta(seconds=float(value))


def https_origin(environment: Environment, name: str, default: str) -> str:
    """`https://host:port`."""
    url = text(environment, name, default).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path:
        raise SettingsError(f"{name}={url!r} must be https://host:port without a path.")
    return url


def metadata_keys(environment: Environment, name: str, reserved: Collection[str]) -> tuple[str, ...]:
    """Keys of labels or annotations, none of a reserved domain."""
    keys = listed(environment, name)
    for key in keys:
        if not re.fullmatch(METADATA_KEY, key):
            raise SettingsError(
                f"{name}: {key!r} is no key of a label or annotation, such as example.com/team."
            )
        if key.rpartition("/")[0] in reserved:
            raise SettingsError(f"{name}: {key!r} is written by the operator. Take it off the list.")
    return keys
