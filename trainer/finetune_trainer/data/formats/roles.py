"""Who speaks: the names that data sets give to the four roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from finetune_trainer.data.rows import Role

# `function_call` is a turn of its own in ShareGPT: the assistant calls a tool, and the value is the call.
TurnRole = Role | Literal["function_call"]

_NAMES: Mapping[TurnRole, tuple[str, ...]] = {
    "system": ("system", "developer", "系统"),
    "user": ("user", "human", "customer", "client", "用户", "客户", "顾客", "人类", "提问者"),
    "assistant": (
        "assistant",
        "gpt",
        "chatgpt",
        "model",
        "bot",
        "ai",
        "agent",
        "助手",
        "客服",
        "助理",
        "机器人",
    ),
    "tool": ("tool", "observation", "function", "function_response", "tool_response", "工具"),
    "function_call": ("function_call", "tool_call"),
}
ROLE_OF_NAME: Mapping[str, TurnRole] = {name: role for role, names in _NAMES.items() for name in names}
# In plain text a mark stands before every turn; single letters would be found in lists of choices.
SPEAKERS: Mapping[str, Role] = {
    **{
        name: role
        for role, names in _NAMES.items()
        if role in ("system", "user", "assistant")
        for name in names
    },
    "问": "user",
    "答": "assistant",
}


def role_of(name: object) -> TurnRole | None:
    """The role behind a name, in whatever letters it is written; None for an unknown one."""
    return ROLE_OF_NAME.get(name.strip().lower()) if isinstance(name, str) else None
