"""The vocabulary shared by operator, trainer and CLI: spec, status, names, reasons, exit codes, store layout.

Pydantic and the standard library only. The CRD, the chart's copy of it, the field reference and the trainer's
configuration parser are all derived from the models in this package; nothing is described twice by hand.
"""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SINGULAR = "finetunejob"
SHORT_NAME = "ftj"
