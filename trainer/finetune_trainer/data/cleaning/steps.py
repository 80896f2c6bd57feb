"""The two kinds of cleaning: a step changes the texts of an example, or says that the example is left out.

Every step counts what it changed under its name in the report. A step that leaves nothing of what the user or the
assistant says drops the row: there is no question without words, and nothing to learn from an empty answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from finetune_trainer.data.rows import (
    Continuation,
    Conversation,
    DropReason,
    Example,
    LabelledText,
    Message,
    replace_texts,
    texts_of,
)

# How often each step changed something, by the step's name in the report.
Changes = dict[str, int]


@dataclass(frozen=True, slots=True)
class Drop:
    """A row is left out, and why. The sentence quotes no text of the row."""

    reason: DropReason
    why: str


class Step(Protocol):
    """One thing that cleaning does to an example. It adds what it changed to `changes`."""

    def run(self, example: Example, changes: Changes) -> Example | Drop: ...


@dataclass(frozen=True, slots=True)
class TextStep:
    """A change of texts that counts the places it changed. `change` is a module's function, so that it pickles."""

    key: str
    title: str
    change: Callable[[str], tuple[str, int]]
    drops_as: DropReason = DropReason.NOISE
    # What tools answer and the arguments of their calls are data for machines: markup there is content.
    only_prose: bool = False

    def run(self, example: Example, changes: Changes) -> Example | Drop:
        """Change every text; say what is left, or that nothing is."""

        def counted(text: str) -> str:
            changed, occurrences = self.change(text)
            if occurrences:
                changes[self.key] = changes.get(self.key, 0) + occurrences
            return changed

        changed = change_texts(example, counted, only_prose=self.only_prose)
        return unless_emptied(example, changed, self.title, self.drops_as)


def change_texts(example: Example, change: Callable[[str], str], *, only_prose: bool = False) -> Example:
    """The example with every text changed; the same object where nothing was."""
    texts = prose_of(example) if only_prose else texts_of(example)
    changed = {text: new for text in texts if (new := change(text)) != text}
    if not changed:
        return example

    def taken(text: str) -> str:
        return changed.get(text, text)

    return _replace_prose(example, taken) if only_prose else replace_texts(example, taken)


def prose_of(example: Example) -> Iterator[str]:
    """The texts that people or the assistant wrote for people."""
    if not isinstance(example, Conversation):
        yield from texts_of(example)
        return
    for message in example.messages:
        if message.role != "tool":
            yield message.content
            if message.thinking:
                yield message.thinking


def _replace_prose(example: Example, change: Callable[[str], str]) -> Example:
    if not isinstance(example, Conversation):
        return replace_texts(example, change)
    return replace(example, messages=tuple(_changed_prose(each, change) for each in example.messages))


def _changed_prose(message: Message, change: Callable[[str], str]) -> Message:
    if message.role == "tool":
        return message
    thinking = change(message.thinking) if message.thinking else message.thinking
    return replace(message, content=change(message.content), thinking=thinking)


def unless_emptied(before: Example, after: Example, step: str, reason: DropReason) -> Example | Drop:
    """The changed example, or the drop where a text that said something says nothing any more."""
    if after is before:
        return after
    for (owner, old), (_, new) in zip(_said(before), _said(after), strict=True):
        if old.strip() and not new.strip():
            return Drop(reason, f"{step} leaves nothing of {owner}")
    return after


def _said(example: Example) -> Iterator[tuple[str, str]]:
    """What must not become empty. An assistant's turn that calls a tool needs no words."""
    match example:
        case Conversation():
            for message in example.messages:
                if message.role in ("user", "assistant") and not message.tool_calls:
                    yield f"the {message.role}'s text", message.content
        case Continuation():
            yield "the prompt", example.given
            yield "what is learned", example.learned
        case LabelledText():
            yield "the text", example.text
