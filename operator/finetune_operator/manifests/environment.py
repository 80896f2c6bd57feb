"""Environment variables of the trainer container. No secret ever stands here: credentials are mounted files."""

from __future__ import annotations

from finetune_api import names
from finetune_api.progress import PROGRESS_PATH
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.settings import PodSettings


def build_environment(settings: PodSettings) -> list[JsonObject]:
    """Build the environment: where to report to, where to write, and that nothing is fetched from a model hub."""
    work = names.WORK_DIRECTORY
    variables = {
        "HOME": work,
        "TMPDIR": f"{work}/tmp",  # noqa: S108 (a folder of the pod's own volume)
        names.ENV_WORK_DIRECTORY: work,
        names.ENV_PROGRESS_URL: settings.progress_service_url + PROGRESS_PATH,
        names.ENV_PROGRESS_TOKEN_PATH: names.PROGRESS_TOKEN_PATH,
        names.ENV_PROGRESS_CA_PATH: names.PROGRESS_CA_PATH,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": f"{work}/hf",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return [{"name": name, "value": value} for name, value in variables.items()]
