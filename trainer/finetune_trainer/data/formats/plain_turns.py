"""Dialogues written as one text: every turn begins a line with its speaker and a colon, `用户：…` or `User: …`."""

from __future__ import annotations

import re

from finetune_trainer.data.formats.roles import SPEAKERS
from finetune_trainer.data.formats.row_values import Unusable
from finetune_trainer.data.rows import Message, Role

_MARK = re.compile(
    rf"^[ \t\u3000]*({'|'.join(sorted(map(re.escape, SPEAKERS), key=len, reverse=True))})[ \t\u3000]*[:：][ \t\u3000]*",
    re.IGNORECASE | re.MULTILINE,
)


def has_plain_turns(text: str) -> bool:
    """Whether a text begins with a speaker, and both the user and the assistant speak."""
    first = _MARK.match(text.lstrip())
    return first is not None and {"user", "assistant"} <= {_speaker(mark) for mark in _MARK.finditer(text)}


def read_plain_turns(text: str, column: str) -> tuple[Message, ...]:
    """Split a text at its speakers; lines without one belong to the turn before. Raises Unusable."""
    marks = list(_MARK.finditer(text))
    if not marks:
        raise Unusable("no line begins with a speaker such as `User:` or `用户：`", column)
    if text[: marks[0].start()].strip():
        raise Unusable("the text begins without a speaker such as `User:` or `用户：`", column)
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    turns = [(_speaker(mark), text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    for number, (role, content) in enumerate(turns, start=1):
        if role == "user" and not content:
            raise Unusable(f"turn {number} (user) is empty", column)
    return tuple(Message(role, content) for role, content in turns)


def _speaker(mark: re.Match[str]) -> Role:
    return SPEAKERS[mark[1].lower()]
