"""`FineTuneJob.spec`, one module per block; `job.py` puts them together."""

from finetune_api.spec.checkpoints import Checkpoints
from finetune_api.spec.dataset import (
    ColumnMapping,
    DataFormat,
    Dataset,
    DataSource,
    InvalidRows,
    LossOn,
    Overlong,
    Preparation,
)
from finetune_api.spec.environment import EnvironmentVariable
from finetune_api.spec.failure_policy import FailurePolicy, OnOutOfMemory
from finetune_api.spec.job import DeletionPolicy, FineTuneJobSpec, StopAfter
from finetune_api.spec.method import LoRA, Method, MethodType
from finetune_api.spec.model import Model
from finetune_api.spec.output import MergedModel, MergedPrecision, Output
from finetune_api.spec.parallelism import Parallelism
from finetune_api.spec.resources import Resources, StageResources, Toleration
from finetune_api.spec.resume_from import ResumeFrom
from finetune_api.spec.store import Addressing, Checksums, SecretRef, Store
from finetune_api.spec.training import Precision, Scheduler, Training

__all__ = [
    "Addressing",
    "Checkpoints",
    "Checksums",
    "ColumnMapping",
    "DataFormat",
    "DataSource",
    "Dataset",
    "DeletionPolicy",
    "EnvironmentVariable",
    "FailurePolicy",
    "FineTuneJobSpec",
    "InvalidRows",
    "LoRA",
    "LossOn",
    "MergedModel",
    "MergedPrecision",
    "Method",
    "MethodType",
    "Model",
    "OnOutOfMemory",
    "Output",
    "Overlong",
    "Parallelism",
    "Precision",
    "Preparation",
    "Resources",
    "ResumeFrom",
    "Scheduler",
    "SecretRef",
    "StageResources",
    "StopAfter",
    "Store",
    "Toleration",
    "Training",
]
