"""The schemes by which models and data are named, and the patterns of what may follow them.

Segments of a claim's path begin with a letter, a digit or `_`: neither `..` nor a hidden file can be named.
"""

from __future__ import annotations

_BUCKET = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_REPOSITORY = r"(hf|modelscope)://[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_CLAIM = r"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_SEGMENT = r"/[A-Za-z0-9_][A-Za-z0-9._=@+-]*"
_CONFIG_MAP = r"configMap://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+"

# A split or a configuration of a hub's data set, such as train_sft or 20231101.zh.
HUB_WORD = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}"

# A folder with a model: all of a claim may be one.
MODEL_URI_PATTERN = rf"^({_BUCKET}(/[^/\s]+)*/?|{_REPOSITORY}|{_CLAIM}({_SEGMENT})*/?)$"
# Rows: a file, a folder of files (the `/` at its end may be left out), or a hub's data set with its configuration.
DATA_URI_PATTERN = (
    rf"^({_BUCKET}(/[^/\s]+)+/?|{_REPOSITORY}(:{HUB_WORD})?|{_CLAIM}({_SEGMENT})+/?|{_CONFIG_MAP})$"
)
# A text file.
WORD_LIST_URI_PATTERN = rf"^({_BUCKET}(/[^/\s]+)+|{_CONFIG_MAP})$"
# A branch, a tag or a commit.
REVISION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"


def cel_names_configuration(field: str) -> str:
    """CEL: whether the URI in `field` names a configuration of a hub's data set: hf://org/name:configuration."""
    return f"{field}.matches('^(hf|modelscope)://[^:]*:')"


def cel_is_hub(field: str) -> str:
    """CEL: whether the URI in `field` names a repository of a hub."""
    return f"({field}.startsWith('hf://') || {field}.startsWith('modelscope://'))"
