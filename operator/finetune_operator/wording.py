"""Sentences for people: Kubernetes' messages made to stand in ours, and cut to what an object may hold."""

from __future__ import annotations


def as_sentence(text: str) -> str:
    """The text with exactly one full stop, so that another sentence can follow."""
    return text.strip().rstrip(".") + "."


def cut(text: str, length: int) -> str:
    """The text, shortened where it is longer, which the ellipsis shows."""
    return text if len(text) <= length else text[: length - 2] + " …"
