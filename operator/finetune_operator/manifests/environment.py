"""Environment variables of the trainer container. No secret ever stands here: credentials are mounted files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from finetune_api import names
from finetune_api.names import Stage
from finetune_api.progress import PROGRESS_PATH
from finetune_operator.hub_access import HubAccess, asks_hub, choose_variables
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.service import coordinator_address
from finetune_operator.manifests.wanted import WantedAttempt
from finetune_operator.settings import PodSettings

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_EXCEPTIONS = ("NO_PROXY", "no_proxy")


def build_environment(wanted: WantedAttempt, settings: PodSettings) -> list[JsonObject]:
    """Build the environment: what the user tunes, and over it what the installation decides."""
    variables = {
        **_chosen(wanted, settings),
        **_folders(),
        **_libraries(wanted.stage),
        **(_hub(settings.hub) if asks_hub(wanted.spec, wanted.stage) else {}),
        names.ENV_GRACE_SECONDS: str(wanted.grace_seconds),
        **(_progress(settings) if wanted.stage is not Stage.CLEANUP else {}),
        **(_kubeflow(settings) if wanted.stage is Stage.TRAIN else {}),
        **({names.ENV_COORDINATOR_ADDRESS: coordinator_address(wanted)} if wanted.is_gang else {}),
    }
    return [{"name": name, "value": value} for name, value in variables.items()]


def _chosen(wanted: WantedAttempt, settings: PodSettings) -> dict[str, str]:
    """The user's variables, and the administrator's for hubs where the user has none."""
    users = {each.name: each.value for each in wanted.spec.env or ()}
    asks = asks_hub(wanted.spec, wanted.stage)
    ours = choose_variables(settings.hub, users) if asks else {}
    chosen, direct = {**ours, **users}, [settings.progress_service_url]
    # Train pods reach the store without the hubs' proxy, so that leads nowhere else.
    if any(name in ours for name in _PROXIES):
        direct.append(wanted.spec.output.store.endpoint or "")
    return {**chosen, **_past_proxies(chosen, direct)}


def _past_proxies(chosen: Mapping[str, str], urls: Iterable[str]) -> dict[str, str]:
    """What no proxy may stand before, where there is one: progress, for example, stays in the cluster."""
    if not any(name in chosen for name in _PROXIES):
        return {}
    hosts = [host for url in urls if (host := urlsplit(url).hostname)]
    present = [name for name in _EXCEPTIONS if name in chosen] or [_EXCEPTIONS[0]]
    told = {name: chosen.get(name, "").strip() for name in present}
    # A lone `*` means everything; beside other entries it means nothing (urllib.request.proxy_bypass_environment).
    return {name: ",".join(filter(None, (value, *hosts))) for name, value in told.items() if value != "*"}


def _folders() -> dict[str, str]:
    work = names.WORK_DIRECTORY
    return {
        "HOME": work,
        "TMPDIR": f"{work}/tmp",  # noqa: S108 (a folder of the pod's own volume)
        "HF_HOME": f"{work}/hf",
        names.ENV_WORK_DIRECTORY: work,
    }


def _libraries(stage: Stage) -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **({"HF_HUB_OFFLINE": "1"} if stage in (Stage.TRAIN, Stage.EXPORT) else {}),
        **(_hub_clients() if stage is Stage.PREPARE else {}),
    }


def _hub_clients() -> dict[str, str]:
    """The one stage that asks hubs tells them nothing of itself, and keeps what it fetched on its own volume."""
    return {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "MODELSCOPE_CACHE": f"{names.WORK_DIRECTORY}/modelscope",
    }


def _hub(access: HubAccess) -> dict[str, str]:
    """What OpenSSL reads; prepare hands it to the hubs' libraries that read something else."""
    trusted = names.HUB_CA_PATH
    # Not REQUESTS_CA_BUNDLE: botocore reads it too, and would trust nobody else when it asks the store.
    return {"SSL_CERT_FILE": trusted} if access.ca_bundle else {}


def _progress(settings: PodSettings) -> dict[str, str]:
    """Where to report to, and by which token and authority."""
    return {
        names.ENV_PROGRESS_URL: settings.progress_service_url + PROGRESS_PATH,
        names.ENV_PROGRESS_TOKEN_PATH: names.PROGRESS_TOKEN_PATH,
        names.ENV_PROGRESS_CA_PATH: names.PROGRESS_CA_PATH,
    }


def _kubeflow(settings: PodSettings) -> dict[str, str]:
    """The same for transformers' KubeflowCallback (integrations/integration_utils.py), which these variables switch on.

    So an image of the user's own that runs a Hugging Face Trainer reports progress as well.
    """
    return {
        names.ENV_KUBEFLOW_URL: settings.progress_service_url + PROGRESS_PATH,
        names.ENV_KUBEFLOW_TOKEN_PATH: names.PROGRESS_TOKEN_PATH,
        names.ENV_KUBEFLOW_CA_PATH: names.PROGRESS_CA_PATH,
    }
