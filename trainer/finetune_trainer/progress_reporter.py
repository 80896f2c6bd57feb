"""Sends progress to the operator from a thread of its own: the newest report only, and never to training's harm.

A report that was not taken (the operator is away, busy, or does not know the token yet) is sent again until a newer one
takes its place, at growing intervals.
"""

from __future__ import annotations

import http.client
import logging
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from finetune_api import names
from finetune_api.progress import ProgressReport

logger = logging.getLogger(__name__)

# Each report is a connection of its own, and the operator writes a job's figures at most every ten seconds.
MIN_INTERVAL_SECONDS = 5.0
# The longest wait between two tries while reports are not taken, also where the operator asks for a longer one.
MAX_INTERVAL_SECONDS = 60.0
REQUEST_TIMEOUT_SECONDS = 5.0
# How long the end of training waits for the last report.
CLOSE_TIMEOUT_SECONDS = 2 * REQUEST_TIMEOUT_SECONDS + 1.0


@dataclass(frozen=True)
class ProgressEndpoint:
    """Where reports go, and the mounted files by which both sides know each other."""

    url: str
    token_path: Path
    ca_path: Path

    @classmethod
    def from_environment(cls) -> ProgressEndpoint | None:
        """None where nobody asked for reports: training outside the operator."""
        url = os.environ.get(names.ENV_PROGRESS_URL)
        if not url:
            return None
        return cls(
            url=url,
            token_path=Path(os.environ.get(names.ENV_PROGRESS_TOKEN_PATH, names.PROGRESS_TOKEN_PATH)),
            ca_path=Path(os.environ.get(names.ENV_PROGRESS_CA_PATH, names.PROGRESS_CA_PATH)),
        )

    def post(self, report: ProgressReport) -> None:
        """Send one report. Token and CA are read each time: the kubelet renews them while the pod runs."""
        request = urllib.request.Request(  # noqa: S310 (the operator's own URL, not one from a spec)
            self.url,
            data=report.model_dump_json(exclude_none=True).encode(),
            method="POST",
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {self.token_path.read_text(encoding='utf-8').strip()}",
            },
        )
        context = ssl.create_default_context(cafile=str(self.ca_path))
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_SECONDS, context=context):  # noqa: S310
            pass


class ProgressReporter:
    """A mailbox with room for one report, and the thread that empties it at most every five seconds."""

    def __init__(self, endpoint: ProgressEndpoint | None) -> None:
        self._endpoint = endpoint
        self._changed = threading.Condition()
        self._waiting: ProgressReport | None = None
        self._closed = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        if endpoint is not None:
            self._thread.start()

    def report(self, report: ProgressReport) -> None:
        """Leave a report; one that still waits is replaced. Returns at once."""
        with self._changed:
            self._waiting = report
            self._changed.notify()

    def close(self) -> None:
        """Send what still waits, then end. Returns after CLOSE_TIMEOUT_SECONDS at the latest."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_SECONDS)

    def _run(self) -> None:
        while (report := self._next()) is not None:
            self._rest(self._send(report))

    def _next(self) -> ProgressReport | None:
        with self._changed:
            while self._waiting is None and not self._closed:
                self._changed.wait()
            report, self._waiting = self._waiting, None
            return report

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _send(self, report: ProgressReport) -> float:
        """Send it, or put it back; the seconds to rest before the next."""
        assert self._endpoint is not None
        try:
            self._endpoint.post(report)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._note_failure(error)
            self._put_back(report)
            return _pause_seconds(self._failures, error)
        if self._failures > 1:
            logger.info("progress reports are delivered again")
        self._failures = 0
        return MIN_INTERVAL_SECONDS

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        # Said once and then rarely: the run itself is well.
        if self._failures in (1, 10) or self._failures % 100 == 0:
            logger.warning("progress report %d not delivered: %s", self._failures, error)

    def _put_back(self, report: ProgressReport) -> None:
        with self._changed:
            if self._waiting is None and not self._closed:
                self._waiting = report


def _pause_seconds(failures: int, error: Exception) -> float:
    wanted = MIN_INTERVAL_SECONDS * 2.0 ** min(failures - 1, 16)
    if (
        isinstance(error, urllib.error.HTTPError)
        and (asked := error.headers.get("Retry-After", "")).isdecimal()
    ):
        wanted = max(wanted, float(asked))
    return min(wanted, MAX_INTERVAL_SECONDS)
