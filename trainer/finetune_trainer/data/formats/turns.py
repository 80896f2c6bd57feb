"""Lists of turns: OpenAI's messages, ShareGPT's conversations, dialogue sequences; one reader for all of them.

Who speaks stands in `role`, `from` or `speaker`, what is said in `content`, `text` or `value`.
"""

from __future__ import annotations

from collections.abc import Sequence

from finetune_trainer.data.formats.roles import TurnRole, role_of
from finetune_trainer.data.formats.row_values import Row, Unusable, as_text, cut, kind_of, parse_json, shown
from finetune_trainer.data.formats.tool_calls import calls_in_text, calls_of
from finetune_trainer.data.rows import Message

ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "text", "value")
_THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
_TEXT_PARTS = ("text", "input_text", "output_text")
_KNOWN_ROLES = "system, user, assistant and tool, and their usual other names"


def as_turn_list(value: object) -> list[object] | None:
    """A list of turns, which in CSV, where there are no lists, is JSON text; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value, "")
        except Unusable:
            return None
    return value if isinstance(value, list) else None


def read_turns(value: object, column: str) -> tuple[Message, ...]:
    """Read a list of turns. Raises Unusable."""
    turns = as_turn_list(value)
    if turns is None:
        raise Unusable(f"{cut(column)} is {kind_of(value)}; it must be a list of {{role, content}}", column)
    if not turns:
        raise Unusable(f"{cut(column)} is empty", column)
    try:
        return tuple([_turn(number, item) for number, item in enumerate(turns, start=1)])
    except Unusable as unusable:
        raise Unusable(unusable.reason, column) from None


def _turn(number: int, turn: object) -> Message:
    name = f"message {number}"
    if not isinstance(turn, dict):
        raise Unusable(f"{name} is {kind_of(turn)}; it must be an object with role and content")
    role = _role(turn, name)
    if role == "function_call":
        return Message(
            "assistant", "", tool_calls=calls_in_text(_content_value(turn), f"{name} (function_call)")
        )
    if role == "assistant":
        return _assistant(turn, name)
    content = _content(turn, f"the content of {name} ({role})")
    if role == "tool":
        return Message(role, content, tool_call_id=_word(turn, "tool_call_id"), name=_word(turn, "name"))
    if role == "user" and not content.strip():
        raise Unusable(f"the content of {name} ({role}) is empty")
    return Message(role, content)


def _assistant(turn: Row, name: str) -> Message:
    calls = calls_of(turn, name) if "tool_calls" in turn or "function_call" in turn else ()
    what = f"the content of {name} (assistant)"
    content = "" if calls and _content_value(turn) is None else _content(turn, what)
    return Message("assistant", content, _thinking(turn, name), calls, is_learned=_is_learned(turn, name))


def _role(turn: Row, name: str) -> TurnRole:
    written = _first_value(turn, ROLE_KEYS)
    role = role_of(written)
    if role is None:
        raise Unusable(f"{name} has the role {shown(written)}; roles are {_KNOWN_ROLES}")
    return role


def _content_value(turn: Row) -> object:
    return _first_value(turn, CONTENT_KEYS)


def _first_value(turn: Row, keys: Sequence[str]) -> object:
    for key in keys:
        if key in turn:
            return turn[key]
    return None


def _content(turn: Row, name: str) -> str:
    value = _content_value(turn)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_part(part, name) for part in value)
    if value is None and not any(key in turn for key in CONTENT_KEYS):
        raise Unusable(f"{name} is missing")
    return as_text(value, name)


def _part(part: object, name: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise Unusable(f"{name} has a part that is {kind_of(part)}; it must be {{type: text, text}}")
    if part.get("type", "text") not in _TEXT_PARTS:
        raise Unusable(f"{name} has a part of type {shown(part['type'])}; only text can be learned")
    return as_text(part.get("text"), f"the text of a part of {name}")


def _thinking(turn: Row, name: str) -> str | None:
    for key in _THINKING_KEYS:
        if turn.get(key) is not None:
            return as_text(turn[key], f"{key} of {name}") or None
    return None


def _is_learned(turn: Row, name: str) -> bool:
    weight = turn.get("weight")
    if weight is None:
        return True
    if isinstance(weight, (bool, int, float)) and weight in (0, 1):
        return bool(weight)
    raise Unusable(f"the weight of {name} must be 0 (read, not learned) or 1")


def _word(turn: Row, key: str) -> str | None:
    value = turn.get(key)
    return value if isinstance(value, str) else None


def refuse_unlearnable(messages: Sequence[Message], column: str | None = None) -> None:
    """Raise Unusable where no turn of the assistant has anything to learn."""
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise Unusable("no message is the assistant's, so there is nothing to learn", column)
    said = [answer for answer in answers if answer.content.strip() or answer.thinking or answer.tool_calls]
    if not said:
        raise Unusable("no assistant message has any content, so there is nothing to learn", column)
    if not any(answer.is_learned for answer in said):
        raise Unusable("every assistant message has weight 0, so there is nothing to learn", column)
