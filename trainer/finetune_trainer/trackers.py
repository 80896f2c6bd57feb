"""Which trackers a run opens, and what their libraries read: decided from spec.tracking alone. Pure and torch-free.

A plan says everything but the secrets: those are read from their files just before the library is opened
(tracker_sessions.py). Every attempt of a run continues the same run of the tracker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from finetune_api import GROUP
from finetune_api.layout import RunLayout
from finetune_api.spec import MLflow, Store, SwanLab, SwanLabMode, Tracking, WandB
from finetune_api.spec.references import TrackerSecretRef
from finetune_trainer.tracked_settings import Setting
from finetune_trainer.unused_packages import FITTING_PACKAGES

# The key of MLflow's tag by which a later attempt finds its run: MLflow alone lets nobody choose a run's id.
RUN_TAG = f"{GROUP}/run"
ATTEMPT_TAG = f"{GROUP}/attempt"
# A server that does not answer costs no more than this before the run goes on without it.
ANSWER_SECONDS = 10
_RETRIES = 2


class TrackerName(StrEnum):
    """A tracker, as users write it."""

    TENSOR_BOARD = "tensorBoard"
    SWAN_LAB = "swanLab"
    MLFLOW = "mlflow"
    WANDB = "wandb"


@dataclass(frozen=True)
class TrackedRun:
    """What all trackers are told of the run. `first_step` steps were done before this attempt."""

    name: str
    run_id: str
    attempt: int
    first_step: int
    settings: Mapping[str, Setting]


@dataclass(frozen=True)
class SecretKeys:
    """The Secret that a field names, and which of its keys go together: any one of the tuples is enough."""

    secret: str
    field: str
    alternatives: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TrackerPlan:
    """One tracker. `environment` is what its library reads; `uri` is the user's server, where there is one."""

    name: TrackerName
    environment: Mapping[str, str]
    folder: Path
    uri: str | None = None
    secret: SecretKeys | None = None

    @property
    def writes_files(self) -> bool:
        """Whether its files are the result, so that steps before a checkpoint stand in the store already."""
        return self.name is TrackerName.TENSOR_BOARD or self.environment.get("SWANLAB_MODE") == "offline"


@dataclass(frozen=True)
class EventFolder:
    """A folder of the pod that is put into the store, and where."""

    folder: Path
    uri: str
    store: Store


def decide_trackers(tracking: Tracking, run: TrackedRun, directory: Path) -> tuple[TrackerPlan, ...]:
    """Plan the trackers of spec.tracking; their files stand below `directory`."""
    plans = []
    if tracking.tensor_board is not None:
        plans.append(TrackerPlan(TrackerName.TENSOR_BOARD, {}, _folder(directory, TrackerName.TENSOR_BOARD)))
    if tracking.swan_lab is not None:
        plans.append(_plan_swan_lab(tracking.swan_lab, run, _folder(directory, TrackerName.SWAN_LAB)))
    if tracking.mlflow is not None:
        plans.append(_plan_mlflow(tracking.mlflow, run, _folder(directory, TrackerName.MLFLOW)))
    if tracking.wandb is not None:
        plans.append(_plan_wandb(tracking.wandb, run, _folder(directory, TrackerName.WANDB)))
    return tuple(plans)


def decide_event_folders(
    tracking: Tracking, layout: RunLayout, output_store: Store, directory: Path
) -> tuple[EventFolder, ...]:
    """Say which folders of the trackers go into the store at every checkpoint and at the end."""
    folders = []
    if (board := tracking.tensor_board) is not None:
        uri = board.uri or f"{layout.run_uri}/tensorboard"
        folder = _folder(directory, TrackerName.TENSOR_BOARD)
        folders.append(EventFolder(folder, uri.rstrip("/"), board.store or output_store))
    if tracking.swan_lab is not None and tracking.swan_lab.mode is SwanLabMode.OFFLINE:
        folder = _folder(directory, TrackerName.SWAN_LAB)
        folders.append(EventFolder(folder, f"{layout.run_uri}/swanlab", output_store))
    return tuple(folders)


def list_packages(tracking: Tracking) -> frozenset[str]:
    """The packages that the run imports for its trackers (see unused_packages.py)."""
    packages = {
        "tensorboard": tracking.tensor_board,
        "swanlab": tracking.swan_lab,
        "mlflow": tracking.mlflow,
        "wandb": tracking.wandb,
    }
    own = frozenset(package for package, tracker in packages.items() if tracker is not None)
    # All but TensorBoard know the models of scikit-learn.
    return own | frozenset(FITTING_PACKAGES) if own - {"tensorboard"} else own


def _plan_swan_lab(settings: SwanLab, run: TrackedRun, folder: Path) -> TrackerPlan:
    is_offline = settings.mode is SwanLabMode.OFFLINE
    environment = {
        "SWANLAB_MODE": "offline" if is_offline else "online",
        # Not SWANLAB_PROJECT, which transformers documents: swanlab 0.10 reads it as JSON and fails.
        "SWANLAB_PROJ_NAME": settings.project,
        "SWANLAB_EXP_NAME": run.name,
        "SWANLAB_RUN_ID": run.run_id,
        "SWANLAB_RESUME": "allow",
        # One folder an attempt: swanlab appends to no file of an earlier one.
        "SWANLAB_RUN_DIR": f"{run.run_id}-attempt-{run.attempt:04d}",
        "SWANLAB_LOG_DIR": str(folder),
        "SWANLAB_ROOT": str(folder / ".swanlab"),
        "SWANLAB_INTERACTIVE": "false",
        # It would wrap stdout and stderr, which are the pod's log.
        "SWANLAB_TERMINAL_PROXY_TYPE": "none",
        "SWANLAB_PROBE_GIT": "false",
    }
    if settings.workspace:
        environment["SWANLAB_WORKSPACE"] = settings.workspace
    if settings.uri:
        environment |= {"SWANLAB_API_HOST": settings.uri, "SWANLAB_WEB_HOST": settings.uri}
    secret = _secret_keys(TrackerName.SWAN_LAB, settings.secret_ref, ("SWANLAB_API_KEY",))
    return TrackerPlan(TrackerName.SWAN_LAB, environment, folder, settings.uri, secret)


def _plan_mlflow(settings: MLflow, run: TrackedRun, folder: Path) -> TrackerPlan:
    environment = {
        "MLFLOW_TRACKING_URI": settings.uri,
        "MLFLOW_EXPERIMENT_NAME": settings.project,
        "MLFLOW_TAGS": json.dumps({RUN_TAG: run.run_id, ATTEMPT_TAG: str(run.attempt)}),
        # MLflow's own are 120 seconds and seven retries with growing waits.
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_SECONDS),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(_RETRIES),
        # One after the other, so that the newest step that a server has tells which ones it lacks.
        "MLFLOW_ASYNC_LOGGING_THREADPOOL_SIZE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_MLFLOW_LOG_ARTIFACTS": "false",
        # There is no git in the image, and its absence is worth no warning.
        "GIT_PYTHON_REFRESH": "quiet",
    }
    secret = _secret_keys(
        TrackerName.MLFLOW,
        settings.secret_ref,
        ("MLFLOW_TRACKING_TOKEN",),
        ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    )
    return TrackerPlan(TrackerName.MLFLOW, environment, folder, settings.uri, secret)


def _plan_wandb(settings: WandB, run: TrackedRun, folder: Path) -> TrackerPlan:
    environment = {
        "WANDB_MODE": "online",
        "WANDB_PROJECT": settings.project,
        "WANDB_NAME": run.name,
        "WANDB_RUN_ID": run.run_id,
        "WANDB_RESUME": "allow",
        "WANDB_DIR": str(folder),
        "WANDB_CONFIG_DIR": str(folder / "config"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_SILENT": "true",
        # It would wrap stdout and stderr, which are the pod's log.
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_LOG_MODEL": "false",
        "WANDB_WATCH": "false",
        "WANDB_INIT_TIMEOUT": str(ANSWER_SECONDS),
        "WANDB_HTTP_TIMEOUT": str(ANSWER_SECONDS),
    }
    if settings.entity:
        environment["WANDB_ENTITY"] = settings.entity
    if settings.uri:
        environment["WANDB_BASE_URL"] = settings.uri
    secret = _secret_keys(TrackerName.WANDB, settings.secret_ref, ("WANDB_API_KEY",))
    return TrackerPlan(TrackerName.WANDB, environment, folder, settings.uri, secret)


def _secret_keys(
    tracker: TrackerName, reference: TrackerSecretRef | None, *alternatives: tuple[str, ...]
) -> SecretKeys | None:
    if reference is None:
        return None
    return SecretKeys(reference.name, f"spec.tracking.{tracker}.secretRef", alternatives)


def _folder(directory: Path, tracker: TrackerName) -> Path:
    return directory / tracker.lower()
