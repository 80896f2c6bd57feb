"""The API server for tests: plain requests as administrator, and waiting by deadline."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, TypeVar
from urllib.parse import urlsplit

from devcluster import ControlPlane
from devcluster.http_client import client_tls
from finetune_api import API_VERSION, PLURAL

JsonObject = dict[str, Any]
T = TypeVar("T")
POLL_SECONDS = 0.05
# Long enough for a machine that does ten other things; what waits shorter states a bound that users have.
PATIENCE_SECONDS = 30.0
REQUEST_SECONDS = 30
# Short, so that a thread that follows one ends soon after it was told to.
WATCH_SECONDS = 5

BATCH, CORE, FINETUNE = "apis/batch/v1", "api/v1", f"apis/{API_VERSION}"
POLICY, COORDINATION = "apis/policy/v1", "apis/coordination.k8s.io/v1"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


class RequestRefused(AssertionError):
    """The API server answered with an error."""

    def __init__(self, what: str, code: int, message: str) -> None:
        super().__init__(f"{what}: {code} {message}")
        self.code = code
        self.message = message


class Api:
    """The API server, seen from one namespace. Safe to use from several threads."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        credentials = control_plane.credentials
        self.namespace = namespace
        self.kubeconfig = control_plane.kubeconfig
        self._address = urlsplit(control_plane.endpoints.apiserver)
        self._tls = client_tls(credentials.authority.certificate, credentials.administrator)
        # A connection a thread: a TLS handshake a request would be most of what these tests cost.
        self._local = threading.local()

    def send(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> JsonObject | None:
        """Send a request; None for 404. Raises RequestRefused for other errors."""
        payload = None if body is None else json.dumps(body).encode()
        code, content = self._exchange(method, f"/{path}", payload, {"Content-Type": content_type})
        if code == 404:
            return None
        if code >= 400:
            raise RequestRefused(f"{method} {path}", code, _message(content))
        answer: JsonObject = json.loads(content)
        return answer

    def watch(self, path: str, stop: threading.Event) -> Iterator[JsonObject]:
        """Yield what a collection holds (as ADDED) and then every change of it, until `stop` is set."""
        while not stop.is_set():
            listed = self.send("GET", path)
            assert listed is not None, f"{path} is not served"
            yield from ({"type": "ADDED", "object": item} for item in listed["items"])
            version: str | None = listed["metadata"]["resourceVersion"]
            while version is not None and not stop.is_set():
                version = yield from self._changes(path, version)

    def _changes(self, path: str, version: str) -> Generator[JsonObject, None, str | None]:
        """Follow one short watch; returns the version to go on from, or None where that is too old."""
        query = (
            f"watch=true&timeoutSeconds={WATCH_SECONDS}&allowWatchBookmarks=true&resourceVersion={version}"
        )
        with closing(self._connect(REQUEST_SECONDS)) as connection:
            connection.request("GET", f"/{path}{'&' if '?' in path else '?'}{query}")
            for line in connection.getresponse():
                event: JsonObject = json.loads(line)
                if event["type"] == "ERROR":
                    return None
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    yield event
        return version

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Send over the thread's connection, over a new one where the API server has closed it meanwhile."""
        for is_last in (False, True):
            connection = getattr(self._local, "connection", None) or self._connect(REQUEST_SECONDS)
            self._local.connection = connection
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self._local.connection = None
                if is_last:
                    raise
        raise AssertionError("unreachable")

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        host, port = self._address.hostname or "", self._address.port
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)

    def path(self, api: str, plural: str, name: str = "") -> str:
        """Path of an object of the namespace."""
        return f"{api}/namespaces/{self.namespace}/{plural}{f'/{name}' if name else ''}"

    def create(self, api: str, plural: str, body: JsonObject) -> JsonObject:
        """Create an object."""
        created = self.send("POST", self.path(api, plural), body)
        assert created is not None
        return created

    def read(self, api: str, plural: str, name: str) -> JsonObject | None:
        """Read an object."""
        return self.send("GET", self.path(api, plural, name))

    def list_objects(self, api: str, plural: str, label_selector: str = "") -> list[JsonObject]:
        """List objects."""
        query = f"?labelSelector={label_selector}" if label_selector else ""
        listed = self.send("GET", self.path(api, plural) + query)
        assert listed is not None
        items: list[JsonObject] = listed["items"]
        return items

    def patch(self, api: str, plural: str, name: str, changes: JsonObject) -> JsonObject:
        """Merge changes into an object."""
        changed = self.send("PATCH", self.path(api, plural, name), changes, MERGE)
        assert changed is not None, f"there is no {plural}/{name}"
        return changed

    def delete(self, api: str, plural: str, name: str, **options: object) -> None:
        """Delete an object in the background."""
        self.send("DELETE", self.path(api, plural, name), {"propagationPolicy": "Background", **options})

    def patch_status(self, api: str, plural: str, name: str, status: JsonObject) -> None:
        """Merge into an object's status."""
        path = f"{self.path(api, plural, name)}/status"
        assert self.send("PATCH", path, {"status": status}, STRATEGIC)

    def job(self, name: str) -> JsonObject:
        """Read a FineTuneJob."""
        job = self.read(FINETUNE, PLURAL, name)
        assert job is not None, f"there is no FineTuneJob {name}"
        return job

    def patch_spec(self, name: str, **changes: object) -> JsonObject:
        """Merge changes into the spec of a FineTuneJob."""
        return self.patch(FINETUNE, PLURAL, name, {"spec": changes})

    def status(self, name: str) -> JsonObject:
        """Status of a FineTuneJob."""
        status: JsonObject = self.job(name).get("status", {})
        return status

    def wait_for_status(self, name: str, seconds: float = PATIENCE_SECONDS, **wanted: object) -> JsonObject:
        """Wait until fields of a FineTuneJob's status have these values."""

        def reached() -> JsonObject | None:
            status = self.status(name)
            return status if all(status.get(field) == value for field, value in wanted.items()) else None

        return wait_until(reached, seconds, lambda: f"{wanted} of {name}; status is {self.status(name)}")

    def wait_for_event(self, name: str, kind: str, reason: str) -> None:
        """Wait for an event about a FineTuneJob: events are told after status was written."""
        wait_until(
            lambda: (kind, reason) in self.events_about(name),
            what=lambda: f"event {reason}; there are {self.events_about(name)}",
        )

    def events_about(self, name: str) -> list[tuple[str, str]]:
        """Type and reason of all events about a FineTuneJob."""
        return [
            (event["type"], event["reason"])
            for event in self.list_objects(CORE, "events")
            if event["involvedObject"]["kind"] == "FineTuneJob" and event["involvedObject"]["name"] == name
        ]


def _message(content: bytes) -> str:
    """The sentence of a metav1.Status."""
    try:
        message: str = json.loads(content)["message"]
        return message
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")


def wait_until(
    probe: Callable[[], T | None],
    seconds: float = PATIENCE_SECONDS,
    what: Callable[[], str] = lambda: "it",
    every_seconds: float = POLL_SECONDS,
) -> T:
    """Return the first truthy answer of a probe; fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"after {seconds} s there is still no {what()}"
        time.sleep(every_seconds)
