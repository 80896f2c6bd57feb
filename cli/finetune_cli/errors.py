"""What ends a command early: a sentence for the user, with the next action."""

from __future__ import annotations


class CommandError(Exception):
    """The message is shown as it is; the command exits with 1."""
