"""Settings of the operator: environment → one frozen value, read once at start. The chart sets the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from finetune_api import GROUP
from finetune_operator import environment_values as values
from finetune_operator.default_output import DefaultStore, DefaultStoreError, parse_default_store
from finetune_operator.environment_values import LogFormat, LogLevel, ProgressAuth, PullPolicy, SettingsError
from finetune_operator.hub_access import CABundle, HubAccess, HubAccessError, parse_hub_environment

__all__ = ["PodSettings", "Settings", "SettingsError", "load_settings"]

# Keys of these domains say whose a child is, which pods are which, and what stands in a queue: users write none.
RESERVED_DOMAINS = (GROUP, "batch.kubernetes.io", "app.kubernetes.io")
KUEUE_DOMAIN = "kueue.x-k8s.io"
# Three tries to renew have to fit in.
SHORTEST_LEASE_SECONDS = 3.0


@dataclass(frozen=True)
class PodSettings:
    """What an administrator decides about every job's pods."""

    trainer_image: str
    """FINETUNE_TRAINER_IMAGE: image of the train and export stages."""

    prepare_image: str
    """FINETUNE_PREPARE_IMAGE: image of the prepare and cleanup stages, without torch."""

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

    pass_through_labels: tuple[str, ...] = ()
    """FINETUNE_PASS_THROUGH_LABELS: comma-separated keys of labels that pass from a FineTuneJob to its Jobs and
    pods. Default: none."""

    pass_through_annotations: tuple[str, ...] = ()
    """FINETUNE_PASS_THROUGH_ANNOTATIONS: the same for annotations. Default: none."""

    hub: HubAccess = field(default_factory=HubAccess)
    """FINETUNE_HUB_ENVIRONMENT: JSON object of variables (mirrors, proxies) for prepare pods that ask a hub; what the
    user sets wins. FINETUNE_HUB_CA_CONFIG_MAP: name of a ConfigMap in the jobs' namespaces with the authorities that
    they trust, under FINETUNE_HUB_CA_KEY (default: ca.crt). Default: none."""


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

    log_level: LogLevel
    """FINETUNE_LOG_LEVEL: DEBUG, INFO, WARNING or ERROR. Default: INFO."""

    pod_name: str
    """FINETUNE_POD_NAME: the operator's own pod (downward API), which the Lease then names as its holder.
    Default: none."""

    lease_name: str
    """FINETUNE_LEASE_NAME: Lease in the operator's namespace, made empty by the chart, whose holder alone acts.
    Default: finetune-operator."""

    lease_duration: timedelta
    """FINETUNE_LEASE_SECONDS: for how long a holder that is not heard from keeps it; at least 3. Default: 10."""

    watch_inactivity: timedelta
    """FINETUNE_WATCH_INACTIVITY_SECONDS: a watch that delivers nothing for this long, neither an event nor its end
    (which the API server is asked for every minute), is opened anew. Default: 70."""

    watch_silence: timedelta
    """FINETUNE_WATCH_SILENCE_SECONDS: /healthz fails when a watch has been silent for this long although the API
    server answers; more than twice the inactivity. Default: 150."""

    progress_auth: ProgressAuth
    """FINETUNE_PROGRESS_AUTH: how pods that report progress are recognised. TokenReview: the API server is asked,
    which needs the cluster-wide right to create tokenreviews. Jwt: their tokens' signatures are checked against the
    cluster's published keys, which needs no right beyond what every service account has. Default: TokenReview."""

    progress_keys_path: str | None
    """FINETUNE_PROGRESS_KEYS_PATH: a mounted file with those keys (JWKS), for clusters where service accounts may
    not read /openid/v1/jwks. Default: none; the API server is asked."""

    progress_issuer: str | None
    """FINETUNE_PROGRESS_ISSUER: who issues the cluster's tokens; goes with the keys' path. Default: none; the API
    server is asked."""

    default_store: DefaultStore | None
    """FINETUNE_DEFAULT_STORE: JSON `{"uri": "s3://…", "store": {…}}`, where the results of a FineTuneJob without
    spec.output go: `<uri>/<namespace>/<name>`. Default: none; spec.output is then required."""

    trust_remote_code: bool
    """FINETUNE_TRUST_REMOTE_CODE: whether a FineTuneJob may ask for a model's own code to be run. Default: false."""

    @property
    def progress_host(self) -> str:
        """The name by which pods reach the progress server."""
        return urlsplit(self.pods.progress_service_url).hostname or ""


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises SettingsError with the variable, its value and what is expected."""
    namespace = values.required(environment, "FINETUNE_OPERATOR_NAMESPACE")
    watch_inactivity, watch_silence = _watch_patience(environment)
    keys_path, issuer = _published_keys(environment)
    return Settings(
        operator_namespace=namespace,
        watch_namespaces=values.listed(environment, "FINETUNE_WATCH_NAMESPACES"),
        pods=_load_pod_settings(environment, namespace),
        progress_port=values.port(environment, "FINETUNE_PROGRESS_PORT", 8443),
        health_port=values.port(environment, "FINETUNE_HEALTH_PORT", 8080),
        certificate_secret=values.text(
            environment, "FINETUNE_CERTIFICATE_SECRET", "finetune-operator-certificate"
        ),
        progress_interval=values.seconds(environment, "FINETUNE_PROGRESS_INTERVAL_SECONDS", 10),
        first_restart_delay=values.seconds(environment, "FINETUNE_RESTART_DELAY_SECONDS", 5),
        resync_interval=values.seconds(environment, "FINETUNE_RESYNC_SECONDS", 300),
        log_format=values.choice(environment, "FINETUNE_LOG_FORMAT", "json", "plain"),
        log_level=values.choice(environment, "FINETUNE_LOG_LEVEL", "INFO", "DEBUG", "WARNING", "ERROR"),
        pod_name=values.text(environment, "FINETUNE_POD_NAME", ""),
        lease_name=values.text(environment, "FINETUNE_LEASE_NAME", "finetune-operator"),
        lease_duration=values.seconds(environment, "FINETUNE_LEASE_SECONDS", 10, SHORTEST_LEASE_SECONDS),
        watch_inactivity=watch_inactivity,
        watch_silence=watch_silence,
        progress_auth=values.choice(environment, "FINETUNE_PROGRESS_AUTH", "TokenReview", "Jwt"),
        progress_keys_path=keys_path,
        progress_issuer=issuer,
        default_store=_default_store(environment),
        trust_remote_code=values.boolean(environment, "FINETUNE_TRUST_REMOTE_CODE"),
    )


def _load_pod_settings(environment: Mapping[str, str], namespace: str) -> PodSettings:
    return PodSettings(
        trainer_image=values.required(environment, "FINETUNE_TRAINER_IMAGE"),
        prepare_image=values.required(environment, "FINETUNE_PREPARE_IMAGE"),
        image_pull_policy=values.choice(
            environment, "FINETUNE_IMAGE_PULL_POLICY", "IfNotPresent", "Always", "Never"
        ),
        image_pull_secrets=values.listed(environment, "FINETUNE_IMAGE_PULL_SECRETS"),
        service_account=environment.get("FINETUNE_TRAINER_SERVICE_ACCOUNT") or None,
        ca_config_map=values.text(environment, "FINETUNE_CA_CONFIG_MAP", "finetune-operator-ca"),
        progress_service_url=values.https_origin(
            environment, "FINETUNE_PROGRESS_SERVICE_URL", f"https://finetune-operator.{namespace}.svc:8443"
        ),
        pass_through_labels=values.metadata_keys(
            environment, "FINETUNE_PASS_THROUGH_LABELS", (*RESERVED_DOMAINS, KUEUE_DOMAIN)
        ),
        # Kueue reads annotations of pods, such as the topology they want, that an administrator may leave to users.
        pass_through_annotations=values.metadata_keys(
            environment, "FINETUNE_PASS_THROUGH_ANNOTATIONS", RESERVED_DOMAINS
        ),
        hub=_hub_access(environment),
    )


def _hub_access(environment: Mapping[str, str]) -> HubAccess:
    name = "FINETUNE_HUB_ENVIRONMENT"
    try:
        variables = parse_hub_environment(values.text(environment, name, "{}"))
    except HubAccessError as error:
        raise SettingsError(
            f"{name} cannot be used: {error}. Correct the chart's trainer.hub.env."
        ) from error
    config_map = environment.get("FINETUNE_HUB_CA_CONFIG_MAP")
    key = values.text(environment, "FINETUNE_HUB_CA_KEY", "ca.crt")
    return HubAccess(variables, CABundle(config_map, key) if config_map else None)


def _watch_patience(environment: Mapping[str, str]) -> tuple[timedelta, timedelta]:
    inactivity = values.seconds(environment, "FINETUNE_WATCH_INACTIVITY_SECONDS", 70)
    silence = values.seconds(environment, "FINETUNE_WATCH_SILENCE_SECONDS", 150)
    if silence <= 2 * inactivity:
        raise SettingsError(
            f"FINETUNE_WATCH_SILENCE_SECONDS={silence.total_seconds():g} must be more than twice "
            f"FINETUNE_WATCH_INACTIVITY_SECONDS={inactivity.total_seconds():g}: a watch that is opened anew needs the "
            "time to speak. Raise the first or lower the second."
        )
    return inactivity, silence


def _published_keys(environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    path_name, issuer_name = "FINETUNE_PROGRESS_KEYS_PATH", "FINETUNE_PROGRESS_ISSUER"
    path, issuer = environment.get(path_name) or None, environment.get(issuer_name) or None
    if (path is None) != (issuer is None):
        raise SettingsError(
            f"{path_name}={path!r} and {issuer_name}={issuer!r} go together. Set both or neither."
        )
    return path, issuer


def _default_store(environment: Mapping[str, str]) -> DefaultStore | None:
    name = "FINETUNE_DEFAULT_STORE"
    content = environment.get(name)
    try:
        return parse_default_store(content) if content else None
    except DefaultStoreError as error:
        raise SettingsError(f"{name} cannot be used: {error}. Correct the chart's defaultStore.") from error
