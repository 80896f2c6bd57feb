"""The API server for tests: plain requests as administrator, and waiting by deadline."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from devcluster import ControlPlane
from devcluster.http_client import client_tls
from finetune_api import API_VERSION, PLURAL

JsonObject = dict[str, Any]
T = TypeVar("T")
POLL_SECONDS = 0.05

BATCH, CORE, FINETUNE = "apis/batch/v1", "api/v1", f"apis/{API_VERSION}"


class Api:
    """The API server, seen from one namespace."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        credentials = control_plane.credentials
        self.namespace = namespace
        self._server = control_plane.endpoints.apiserver
        tls = client_tls(credentials.authority.certificate, credentials.administrator)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
        )

    def send(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> JsonObject | None:
        """Send a request; None for 404."""
        request = urllib.request.Request(
            f"{self._server}/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": content_type},
            method=method,
        )
        try:
            with self._opener.open(request, timeout=30) as response:
                answer: JsonObject = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

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

    def list_objects(self, api: str, plural: str) -> list[JsonObject]:
        """List objects."""
        listed = self.send("GET", self.path(api, plural))
        assert listed is not None
        items: list[JsonObject] = listed["items"]
        return items

    def delete(self, api: str, plural: str, name: str) -> None:
        """Delete an object in the background."""
        self.send("DELETE", self.path(api, plural, name), {"propagationPolicy": "Background"})

    def patch_status(self, api: str, plural: str, name: str, status: JsonObject) -> None:
        """Merge into an object's status."""
        path = f"{self.path(api, plural, name)}/status"
        assert self.send("PATCH", path, {"status": status}, "application/strategic-merge-patch+json")

    def status(self, name: str) -> JsonObject:
        """Status of a FineTuneJob."""
        job = self.read(FINETUNE, PLURAL, name)
        assert job is not None
        status: JsonObject = job.get("status", {})
        return status

    def wait_for_status(self, name: str, seconds: float = 15, **wanted: object) -> JsonObject:
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


def wait_until(
    probe: Callable[[], T | None], seconds: float = 15, what: Callable[[], str] = lambda: "it"
) -> T:
    """Return the first truthy answer of a probe; fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"after {seconds} s there is still no {what()}"
        time.sleep(POLL_SECONDS)
