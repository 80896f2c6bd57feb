"""Tells the person at the terminal what is being done and how long each step took.

Every part of the package reports through a Console that is passed in; tests pass QUIET.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Console:
    """Writes steps to a stream, or nowhere when there is none."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def say(self, sentence: str) -> None:
        """Write one line."""
        if self._stream is not None:
            print(sentence, file=self._stream, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Write the title at once and the duration once the block has ended."""
        started = time.monotonic()
        self._write(f"  {title} … ")
        try:
            yield
        except BaseException:
            self._write("failed\n")
            raise
        self._write(f"{time.monotonic() - started:.1f} s\n")

    def _write(self, text: str) -> None:
        if self._stream is not None:
            print(text, end="", file=self._stream, flush=True)


QUIET = Console(None)
