"""Settings of the operator: environment → one frozen value, read once at start. The chart sets the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from urllib.parse import urlsplit

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
LogFormat = Literal["json", "plain"]
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(Exception):
    """A variable of the environment is missing or has a value that cannot be used."""


@dataclass(frozen=True)
class PodSettings:
    """What an administrator decides about every job's pods."""

    trainer_image: str
    """FINETUNE_TRAINER_IMAGE: image of the train and export stages."""

    prepare_image: str
    """FINETUNE_PREPARE_IMAGE: image of the prepare stage, without torch."""

    image_pull_policy: PullPolicy
    """FINETUNE_IMAGE_PULL_POLICY: Always, IfNotPresent or Never. Default: IfNotPresent."""

    image_pull_secrets: tuple[str, ...]
    """FINETUNE_IMAGE_PULL_SECRETS: comma-separated names of Secrets in the jobs' namespaces. Default: none."""

    service_account: str | None
    """FINETUNE_TRAINER_SERVICE_ACCOUNT: ServiceAccount of the pods, looked up in the job's namespace (workload
    identity). Users cannot choose one. Default: the namespace's `default`."""

    ca_config_map: str
    """FINETUNE_CA_CONFIG_MAP: name of the ConfigMap with our CA certificate in every namespace that has a job.
    Default: finetune-operator-ca."""

    progress_service_url: str
    """FINETUNE_PROGRESS_SERVICE_URL: where pods report progress, `https://host:port`. Its host stands in the
    certificate. Default: https://finetune-operator.<operator's namespace>.svc:8443."""


@dataclass(frozen=True)
class Settings:
    """All settings."""

    operator_namespace: str
    """FINETUNE_OPERATOR_NAMESPACE: the operator's own namespace (downward API). Required."""

    watch_namespaces: tuple[str, ...]
    """FINETUNE_WATCH_NAMESPACES: comma-separated namespaces that are served. Default: all."""

    pods: PodSettings
    """Everything about the jobs' pods."""

    progress_port: int
    """FINETUNE_PROGRESS_PORT: port of the HTTPS server for progress. Default: 8443."""

    health_port: int
    """FINETUNE_HEALTH_PORT: port of /healthz, /readyz and /metrics. Default: 8080."""

    certificate_secret: str
    """FINETUNE_CERTIFICATE_SECRET: Secret in the operator's namespace, made empty by the chart, that keeps CA and
    certificate. Default: finetune-operator-certificate."""

    progress_interval: timedelta
    """FINETUNE_PROGRESS_INTERVAL_SECONDS: shortest time between two writes of a job's figures. Default: 10."""

    first_restart_delay: timedelta
    """FINETUNE_RESTART_DELAY_SECONDS: pause before the first restart; it doubles with every counted one, up to
    5 minutes. Default: 5."""

    resync_interval: timedelta
    """FINETUNE_RESYNC_SECONDS: how often everything is listed and reconciled anew, should a watch have lost
    something. Default: 300."""

    log_format: LogFormat
    """FINETUNE_LOG_FORMAT: json or plain. Default: json."""

    log_level: str
    """FINETUNE_LOG_LEVEL: DEBUG, INFO, WARNING or ERROR. Default: INFO."""

    @property
    def progress_host(self) -> str:
        """The name by which pods reach the progress server."""
        return urlsplit(self.pods.progress_service_url).hostname or ""


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises SettingsError with the variable, its value and what is expected."""
    namespace = _required(environment, "FINETUNE_OPERATOR_NAMESPACE")
    return Settings(
        operator_namespace=namespace,
        watch_namespaces=_names(environment, "FINETUNE_WATCH_NAMESPACES"),
        pods=_load_pod_settings(environment, namespace),
        progress_port=_port(environment, "FINETUNE_PROGRESS_PORT", 8443),
        health_port=_port(environment, "FINETUNE_HEALTH_PORT", 8080),
        certificate_secret=_text(environment, "FINETUNE_CERTIFICATE_SECRET", "finetune-operator-certificate"),
        progress_interval=_seconds(environment, "FINETUNE_PROGRESS_INTERVAL_SECONDS", 10),
        first_restart_delay=_seconds(environment, "FINETUNE_RESTART_DELAY_SECONDS", 5),
        resync_interval=_seconds(environment, "FINETUNE_RESYNC_SECONDS", 300),
        log_format=_log_format(environment),
        log_level=_log_level(environment),
    )


def _load_pod_settings(environment: Mapping[str, str], namespace: str) -> PodSettings:
    return PodSettings(
        trainer_image=_required(environment, "FINETUNE_TRAINER_IMAGE"),
        prepare_image=_required(environment, "FINETUNE_PREPARE_IMAGE"),
        image_pull_policy=_pull_policy(environment),
        image_pull_secrets=_names(environment, "FINETUNE_IMAGE_PULL_SECRETS"),
        service_account=environment.get("FINETUNE_TRAINER_SERVICE_ACCOUNT") or None,
        ca_config_map=_text(environment, "FINETUNE_CA_CONFIG_MAP", "finetune-operator-ca"),
        progress_service_url=_service_url(environment, namespace),
    )


def _text(environment: Mapping[str, str], name: str, default: str) -> str:
    return environment.get(name) or default


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise SettingsError(
            f"{name} is not set. The chart sets it; set it when you run the operator by hand."
        )
    return value


def _names(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[,\s]+", environment.get(name, "")) if part)


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = _text(environment, name, str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"{name}={text!r} is no port. Set a number from 1 to 65535.")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> timedelta:
    text = _text(environment, name, str(default))
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or float(text) <= 0:
        raise SettingsError(f"{name}={text!r} is no number of seconds. Set a number above 0.")
    return timedelta(seconds=float(text))


def _service_url(environment: Mapping[str, str], namespace: str) -> str:
    name = "FINETUNE_PROGRESS_SERVICE_URL"
    url = _text(environment, name, f"https://finetune-operator.{namespace}.svc:8443").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path:
        raise SettingsError(f"{name}={url!r} must be https://host:port without a path.")
    return url


def _pull_policy(environment: Mapping[str, str]) -> PullPolicy:
    match _text(environment, "FINETUNE_IMAGE_PULL_POLICY", "IfNotPresent"):
        case "Always":
            return "Always"
        case "IfNotPresent":
            return "IfNotPresent"
        case "Never":
            return "Never"
        case other:
            raise SettingsError(
                f"FINETUNE_IMAGE_PULL_POLICY={other!r} is unknown. Set Always, IfNotPresent or Never."
            )


def _log_format(environment: Mapping[str, str]) -> LogFormat:
    match _text(environment, "FINETUNE_LOG_FORMAT", "json"):
        case "json":
            return "json"
        case "plain":
            return "plain"
        case other:
            raise SettingsError(f"FINETUNE_LOG_FORMAT={other!r} is unknown. Set json or plain.")


def _log_level(environment: Mapping[str, str]) -> str:
    level = _text(environment, "FINETUNE_LOG_LEVEL", "INFO").upper()
    if level not in LOG_LEVELS:
        raise SettingsError(f"FINETUNE_LOG_LEVEL={level!r} is unknown. Set one of {', '.join(LOG_LEVELS)}.")
    return level
