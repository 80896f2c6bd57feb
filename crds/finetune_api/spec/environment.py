"""`spec.env`: plain variables of the trainer's container, by an allow-list of names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel

# Tuning of libraries, never loading of code (LD_PRELOAD, PYTHONPATH), never a path that is executed or trusted.
ALLOWED_VARIABLES = (
    r"^(NCCL_[A-Z0-9_]+|GLOO_[A-Z0-9_]+|UCX_[A-Z0-9_]+|FI_[A-Z0-9_]+|OMP_NUM_THREADS|MKL_NUM_THREADS|"
    r"TORCH_(NCCL|CPP_LOG|DISTRIBUTED)_[A-Z0-9_]+|TORCH_LOGS|PYTORCH_(CUDA_|HIP_)?ALLOC_CONF|CUDA_DEVICE_MAX_CONNECTIONS|"
    r"TRANSFORMERS_VERBOSITY|HF_(ENDPOINT|HUB_DOWNLOAD_TIMEOUT|HUB_ETAG_TIMEOUT)|TZ|LANG|LC_ALL|"
    r"(HTTP|HTTPS|NO)_PROXY|(http|https|no)_proxy)$"
)
# These make a library load code or open a file of the user's choice.
FORBIDDEN_VARIABLES = r"^(NCCL_(NET_PLUGIN|TUNER_PLUGIN|PROFILER_PLUGIN|TOPO_FILE|CONF_FILE|.*_DUMP_FILE|DEBUG_FILE)|UCX_MODULE_DIR|FI_PROVIDER_PATH)$"


class EnvironmentVariable(ApiModel):
    """One variable. Values are public: they stand in the pod's spec."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(
        description="name, of the allow-list: NCCL_*, GLOO_*, UCX_*, FI_* and the like, thread counts, proxies, HF_ENDPOINT, TZ, LANG."
    )
    value: Annotated[str, StringConstraints(max_length=4096)] = Field(
        description="value, plain. Secrets do not belong here: name them by a secret reference."
    )
