"""Sentences for people: Kubernetes' messages made to stand in ours."""

from __future__ import annotations


def as_sentence(text: str) -> str:
    """The text with exactly one full stop, so that another sentence can follow."""
    return text.strip().rstrip(".") + "."
