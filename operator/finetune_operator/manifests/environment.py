"""Environment variables of the trainer container. No secret ever stands here: credentials are mounted files."""

from __future__ import annotations

from finetune_api import names
from finetune_api.names import Stage
from finetune_api.progress import PROGRESS_PATH
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.service import coordinator_address
from finetune_operator.manifests.wanted import WantedAttempt
from finetune_operator.settings import PodSettings


def build_environment(wanted: WantedAttempt, grace_seconds: int, settings: PodSettings) -> list[JsonObject]:
    """Build the environment: what the user tunes, and over it what the installation decides."""
    variables = {
        **{each.name: each.value for each in wanted.spec.env or ()},
        **_folders(),
        **_libraries(),
        names.ENV_GRACE_SECONDS: str(grace_seconds),
        **(_progress(settings) if wanted.stage is not Stage.CLEANUP else {}),
        **(_kubeflow(settings) if wanted.stage is Stage.TRAIN else {}),
        **({names.ENV_COORDINATOR_ADDRESS: coordinator_address(wanted)} if wanted.is_gang else {}),
    }
    return [{"name": name, "value": value} for name, value in variables.items()]


def _folders() -> dict[str, str]:
    work = names.WORK_DIRECTORY
    return {
        "HOME": work,
        "TMPDIR": f"{work}/tmp",  # noqa: S108 (a folder of the pod's own volume)
        "HF_HOME": f"{work}/hf",
        names.ENV_WORK_DIRECTORY: work,
    }


def _libraries() -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


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
