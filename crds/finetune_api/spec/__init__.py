"""`FineTuneJob.spec`, one module per block; `job.py` puts them together, `combinations.py` keeps them apart."""

from finetune_api.spec.adapters import IA3, AdaLoRA, LoRA, LoRAVariant, PrefixTuning, PromptInit, PromptTuning
from finetune_api.spec.checkpoints import Checkpoints
from finetune_api.spec.data_source import ColumnMapping, DataFormat, DataSource
from finetune_api.spec.dataset import Dataset, LossOn, Validation
from finetune_api.spec.environment import EnvironmentVariable
from finetune_api.spec.evaluation import Evaluation, Generation, Maximum, Metric, Minimum
from finetune_api.spec.failure_policy import FailurePolicy, OnOutOfMemory
from finetune_api.spec.job import DeletionPolicy, FineTuneJobSpec, StopAfter
from finetune_api.spec.method import ComputeType, Method, MethodType, Quantization, QuantizationType
from finetune_api.spec.model import Model
from finetune_api.spec.output import Export, MergedModel, MergedPrecision, Output, QuantizedCopy
from finetune_api.spec.parallelism import DeepSpeed, Offload, Parallelism, Strategy
from finetune_api.spec.preparation import (
    Augmentation,
    AugmentationMethod,
    Balance,
    BalanceMethod,
    Duplicates,
    FullWidth,
    InvalidRows,
    Leakage,
    Noise,
    Overlong,
    Preparation,
    Redaction,
    RegexAction,
    RegexRule,
    UnicodeForm,
)
from finetune_api.spec.references import (
    CABundleRef,
    PullSecretRef,
    SecretRef,
    TokenSecretRef,
    TrackerSecretRef,
)
from finetune_api.spec.resources import Resources, StageResources, Toleration
from finetune_api.spec.resume_from import ResumeFrom
from finetune_api.spec.store import Addressing, Checksums, OutputStore, Store
from finetune_api.spec.task import Task
from finetune_api.spec.tracking import MLflow, SwanLab, SwanLabMode, TensorBoard, Tracking, WandB
from finetune_api.spec.training import (
    EarlyStopping,
    EarlyStoppingMetric,
    Optimizer,
    Precision,
    Regularisation,
    RegularisationType,
    Scheduler,
    Switch,
    Training,
)

__all__ = [
    "IA3",
    "AdaLoRA",
    "Addressing",
    "Augmentation",
    "AugmentationMethod",
    "Balance",
    "BalanceMethod",
    "CABundleRef",
    "Checkpoints",
    "Checksums",
    "ColumnMapping",
    "ComputeType",
    "DataFormat",
    "DataSource",
    "Dataset",
    "DeepSpeed",
    "DeletionPolicy",
    "Duplicates",
    "EarlyStopping",
    "EarlyStoppingMetric",
    "EnvironmentVariable",
    "Evaluation",
    "Export",
    "FailurePolicy",
    "FineTuneJobSpec",
    "FullWidth",
    "Generation",
    "InvalidRows",
    "Leakage",
    "LoRA",
    "LoRAVariant",
    "LossOn",
    "MLflow",
    "Maximum",
    "MergedModel",
    "MergedPrecision",
    "Method",
    "MethodType",
    "Metric",
    "Minimum",
    "Model",
    "Noise",
    "Offload",
    "OnOutOfMemory",
    "Optimizer",
    "Output",
    "OutputStore",
    "Overlong",
    "Parallelism",
    "Precision",
    "PrefixTuning",
    "Preparation",
    "PromptInit",
    "PromptTuning",
    "PullSecretRef",
    "Quantization",
    "QuantizationType",
    "QuantizedCopy",
    "Redaction",
    "RegexAction",
    "RegexRule",
    "Regularisation",
    "RegularisationType",
    "Resources",
    "ResumeFrom",
    "Scheduler",
    "SecretRef",
    "StageResources",
    "StopAfter",
    "Store",
    "Strategy",
    "SwanLab",
    "SwanLabMode",
    "Switch",
    "Task",
    "TensorBoard",
    "TokenSecretRef",
    "Toleration",
    "TrackerSecretRef",
    "Tracking",
    "Training",
    "UnicodeForm",
    "Validation",
    "WandB",
]
