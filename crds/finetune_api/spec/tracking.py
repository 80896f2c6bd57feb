"""`spec.tracking`: where curves, settings and results are shown beside the run's own report."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints
from pydantic.config import JsonDict

from finetune_api.base import MESSAGE_KEY, S3_URI_PATTERN, ApiModel, CelRule
from finetune_api.spec.references import TrackerSecretRef
from finetune_api.spec.store import Store

ServerUri = Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]+$", max_length=1024)]
Project = Annotated[str, StringConstraints(pattern=r"^[^\s/](.*[^\s])?$", min_length=1, max_length=256)]

_SERVER_MESSAGE: JsonDict = {
    MESSAGE_KEY: "tracking uri must be the server's URL without user and password, such as https://mlflow.example.com"
}


class TensorBoard(ApiModel):
    """Event files that TensorBoard reads."""

    uri: Annotated[str, StringConstraints(pattern=S3_URI_PATTERN, max_length=1024)] | None = Field(
        default=None,
        json_schema_extra={
            MESSAGE_KEY: "tracking.tensorBoard.uri must be s3://bucket/prefix, such as s3://models/tensorboard"
        },
        description="uri of the folder of the event files, s3://bucket/prefix. Default: tensorboard/ in the run's folder.",
    )
    store: Store | None = Field(default=None, description="store of uri. Default: output.store.")


class SwanLabMode(StrEnum):
    """Where SwanLab's runs are kept."""

    CLOUD = "Cloud"
    OFFLINE = "Offline"


class SwanLab(ApiModel):
    """A SwanLab server, or files that `swanlab sync` sends to one later."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "self.mode != 'Offline' || !(has(self.uri) || has(self.secretRef))",
            "tracking.swanLab.mode Offline reaches no server, but uri or secretRef names one: remove tracking.swanLab.uri and secretRef, or "
            "set mode: Cloud",
        ),
    )

    mode: SwanLabMode = Field(
        default=SwanLabMode.CLOUD,
        description="mode: Cloud reports to a server; Offline writes files to swanlab/ in the run's folder, for `swanlab sync`. Default: Cloud.",
    )
    uri: ServerUri | None = Field(
        default=None,
        json_schema_extra=_SERVER_MESSAGE,
        description="uri of an own SwanLab server. Default: swanlab.cn.",
    )
    project: Project = Field(default="finetune", description="project of the experiment. Default: finetune.")
    workspace: Project | None = Field(
        default=None, description="workspace of the project. Default: that of the key's owner."
    )
    secret_ref: TrackerSecretRef | None = Field(
        default=None, description="secretRef names the Secret with SWANLAB_API_KEY. Default: none."
    )


class MLflow(ApiModel):
    """An MLflow tracking server."""

    uri: ServerUri = Field(
        json_schema_extra=_SERVER_MESSAGE,
        description="uri of the tracking server, such as https://mlflow.example.com.",
    )
    project: Project = Field(
        default="finetune", description="project is the experiment's name. Default: finetune."
    )
    secret_ref: TrackerSecretRef | None = Field(
        default=None,
        description="secretRef names the Secret with MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. "
        "Default: no authentication.",
    )


class WandB(ApiModel):
    """A Weights & Biases server."""

    uri: ServerUri | None = Field(
        default=None,
        json_schema_extra=_SERVER_MESSAGE,
        description="uri of an own W&B server. Default: api.wandb.ai.",
    )
    project: Project = Field(default="finetune", description="project of the run. Default: finetune.")
    entity: Project | None = Field(
        default=None, description="entity (user or team) of the project. Default: that of the key's owner."
    )
    secret_ref: TrackerSecretRef | None = Field(
        default=None, description="secretRef names the Secret with WANDB_API_KEY. Default: none."
    )


class Tracking(ApiModel):
    """Trackers that the train pod reports to; one that cannot be reached never stops the run."""

    tensor_board: TensorBoard | None = Field(
        default=None, description="tensorBoard writes event files to the store. Default: none."
    )
    swan_lab: SwanLab | None = Field(default=None, description="swanLab reports to SwanLab. Default: none.")
    mlflow: MLflow | None = Field(default=None, description="mlflow reports to MLflow. Default: none.")
    wandb: WandB | None = Field(default=None, description="wandb reports to Weights & Biases. Default: none.")
