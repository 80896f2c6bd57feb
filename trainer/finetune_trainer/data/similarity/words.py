"""What of an example is compared when rows are searched that nearly say the same.

Only what tells rows apart: no system prompt and no fixed question about a label, for they are the same in every row
and would make short rows alike.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune_trainer.data.rows import Continuation, Conversation, Example, LabelledText, texts_of


def comparable_text(example: Example) -> str:
    """The texts of an example in one. Labels are no part of it: rows of different labels are compared with labels=…"""
    return "\n".join(text for text in _texts(example) if text)


def _texts(example: Example) -> Iterator[str]:
    match example:
        case Conversation(label=None):
            for message in example.messages:
                if message.role != "system":
                    yield from texts_of(Conversation(example.place, (message,)))
        case Conversation():
            yield from (own_words(m.content) for m in example.messages if m.role == "user")
        case Continuation() | LabelledText():
            yield from texts_of(example)


def own_words(question: str) -> str:
    """The row's own text in a question about its label: the rendered instruction ends with an empty line."""
    _, _, text = question.partition("\n\n")
    return text or question
