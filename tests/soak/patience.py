"""Asking a cluster that is being disturbed: what fails because nobody answers is asked again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from devcluster.errors import DevClusterError
from examples.quickstart.environment import QuickstartError

Answer = TypeVar("Answer")
AWAY = (OSError, DevClusterError, QuickstartError, BotoCoreError, ClientError)
_PATIENCE_SECONDS = 90.0
_POLL_SECONDS = 0.5


def patiently(ask: Callable[[], Answer], patience_seconds: float = _PATIENCE_SECONDS) -> Answer:
    """Ask until there is an answer; raise what the last try raised."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return ask()
        except AWAY:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)
