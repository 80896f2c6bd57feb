"""`spec.env`: plain variables of the trainer's container, by an allow-list of names."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, field_validator

from finetune_api.base import MESSAGE_KEY, ApiModel, CelRule

# Tuning of libraries, never loading of code (LD_PRELOAD, PYTHONPATH), never a path that is executed or trusted.
ALLOWED_VARIABLES = (
    r"^(NCCL_[A-Z0-9_]+|GLOO_[A-Z0-9_]+|UCX_[A-Z0-9_]+|FI_[A-Z0-9_]+|OMP_NUM_THREADS|MKL_NUM_THREADS|"
    r"TORCH_(NCCL|CPP_LOG|DISTRIBUTED)_[A-Z0-9_]+|TORCH_LOGS|PYTORCH_(CUDA_|HIP_)?ALLOC_CONF|CUDA_DEVICE_MAX_CONNECTIONS|"
    r"TRANSFORMERS_VERBOSITY|HF_(ENDPOINT|HUB_DOWNLOAD_TIMEOUT|HUB_ETAG_TIMEOUT|HUB_DISABLE_XET)|MODELSCOPE_(ENDPOINT|DOMAIN)|TZ|LANG|LC_ALL|"
    r"(HTTP|HTTPS|NO)_PROXY|(http|https|no)_proxy)$"
)
# The families above have members that make the library load code, or read or write a file of the user's choice: they
# all say so in their names, also those of versions to come.
FORBIDDEN_VARIABLES = r"PLUGIN|FILE|LIBRARY|PRELOAD|_LIB(_|$)|_PATH|_DIR(_|$)|_DEST(_|$)"

_ALLOWED_MESSAGE = (
    "env name must be of the allow-list: NCCL_*, GLOO_*, UCX_*, FI_*, TORCH_NCCL_*, TORCH_DISTRIBUTED_*, PYTORCH_CUDA_ALLOC_CONF, "
    "OMP_NUM_THREADS, MKL_NUM_THREADS, HF_ENDPOINT, MODELSCOPE_ENDPOINT, HTTP_PROXY, HTTPS_PROXY, NO_PROXY, TZ, LANG and the like; remove it"
)
_FORBIDDEN_MESSAGE = "env name belongs to a variable by which a library loads code or opens a file of one's choice, which is not allowed: remove it"


class EnvironmentVariable(ApiModel):
    """One variable. Values are public: they stand in the pod's spec."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(f"!self.name.matches(r'{FORBIDDEN_VARIABLES}')", _FORBIDDEN_MESSAGE),
    )

    name: Annotated[str, StringConstraints(pattern=ALLOWED_VARIABLES, min_length=1, max_length=128)] = Field(
        json_schema_extra={MESSAGE_KEY: _ALLOWED_MESSAGE},
        description="name, of the allow-list: NCCL_*, GLOO_*, UCX_*, FI_* and the like, thread counts, proxies, HF_ENDPOINT, MODELSCOPE_ENDPOINT, TZ, LANG; "
        "none that names a plugin, a library or a file.",
    )
    value: Annotated[str, StringConstraints(max_length=4096)] = Field(
        description="value, plain. Secrets do not belong here: name them by a secret reference."
    )

    @field_validator("name")
    @classmethod
    def _refuse_forbidden_names(cls, name: str) -> str:
        # The API server evaluates the rule above; this holds where the resource came by another way.
        if re.search(FORBIDDEN_VARIABLES, name):
            raise ValueError(_FORBIDDEN_MESSAGE)
        return name
