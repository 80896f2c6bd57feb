"""What the API server's answers mean, when it is asked again at once, and that no write passes a shut gate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from finetune_operator import cluster as cluster_module
from finetune_operator.api_errors import error_of_response
from finetune_operator.cluster import (
    AlreadyExists,
    Cluster,
    ClusterError,
    Conflict,
    NamespaceTerminating,
    NotFound,
    Refused,
    Unavailable,
)
from finetune_operator.job_resource import JobKey


def error(status: int, reason: str = "", headers: dict[str, str] | None = None, **body: Any) -> ClusterError:
    content = json.dumps({"kind": "Status", "message": "because", "reason": reason, **body}).encode()
    return error_of_response("POST", "/x", status, content, headers or {})


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (403, "Forbidden", Refused),
        (422, "Invalid", Refused),
        (400, "BadRequest", Refused),
        (401, "Unauthorized", Unavailable),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (504, "Timeout", Unavailable),
    ],
)
def test_each_answer_has_its_meaning(status: int, reason: str, kind: type[ClusterError]) -> None:
    told = error(status, reason)

    assert type(told) is kind
    assert (told.message, told.status) == ("because", status)


def test_a_namespace_that_is_being_deleted_is_told_apart() -> None:
    told = error(403, "Forbidden", details={"causes": [{"reason": "NamespaceTerminating"}]})

    assert type(told) is NamespaceTerminating


def test_the_api_server_says_when_to_come_again() -> None:
    told = error(429, headers={"Retry-After": "7"})

    assert isinstance(told, Unavailable)
    assert told.retry_after_seconds == 7


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]"])
def test_an_answer_that_is_no_status_still_says_what_was_asked(content: bytes) -> None:
    told = error_of_response("GET", "/x", 502, content, {})

    assert type(told) is Unavailable
    assert told.message == "GET /x: HTTP 502"


# --- against a server ------------------------------------------------------------------------------------------

SECRET = {"metadata": {"namespace": "ml", "name": "keys", "resourceVersion": "1"}}


class Server:
    """An API server that answers as it is told, and else with the object it was sent."""

    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.asked: list[tuple[str, str]] = []
        self.breaks = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        if self.breaks:
            self.breaks -= 1
            assert request.transport is not None
            request.transport.abort()
        return self.answers.pop(0) if self.answers else web.json_response(SECRET)

    def refuse(self, status: int, **headers: str) -> None:
        """Answer the next request with an error."""
        self.answers.append(web.json_response({"message": "because"}, status=status, headers=headers))


class ShutGate:
    """Nothing may be written."""

    def check(self) -> None:
        raise Unavailable("the Lease could not be renewed")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def cluster(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(cluster_module, "FIRST_PAUSE_SECONDS", 0.0)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration(host="http://{}:{}".format(*runner.addresses[0][:2]))
    cluster = Cluster(ApiClient(configuration), configuration)
    yield cluster
    await cluster.aclose()
    await runner.cleanup()


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}])
async def test_what_failed_quickly_is_tried_again_at_once(
    status: int, headers: dict[str, str], cluster: Cluster, server: Server
) -> None:
    server.refuse(status, **headers)
    server.refuse(status, **headers)

    assert await cluster.update_secret(SECRET) == SECRET

    assert len(server.asked) == 3


async def test_a_pause_that_is_asked_for_is_kept(
    cluster: Cluster, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    server.refuse(429, **{"Retry-After": "2"})

    await cluster.update_secret(SECRET)

    assert 2 <= pauses[0] <= 3


async def test_a_connection_that_breaks_is_no_reason_to_give_up(cluster: Cluster, server: Server) -> None:
    server.breaks = 2

    assert await cluster.update_secret(SECRET) == SECRET


async def test_a_third_failure_is_for_the_work_queue(cluster: Cluster, server: Server) -> None:
    for _ in range(3):
        server.refuse(429, **{"Retry-After": "0"})

    with pytest.raises(Unavailable):
        await cluster.update_secret(SECRET)

    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        pytest.param(429, {"Retry-After": "30"}, id="a long pause is for the work queue"),
        pytest.param(504, {}, id="so is what took its time to fail"),
        pytest.param(401, {}, id="a token that is refused is refused in a moment, too"),
        pytest.param(409, {"Retry-After": "0"}, id="a conflict is decided anew"),
        pytest.param(403, {"Retry-After": "0"}, id="a refusal stays one"),
    ],
)
async def test_others_are_not_tried_again_in_place(
    status: int, headers: dict[str, str], cluster: Cluster, server: Server
) -> None:
    server.refuse(status, **headers)

    with pytest.raises(ClusterError):
        await cluster.update_secret(SECRET)

    assert len(server.asked) == 1


async def test_an_api_server_that_is_not_there_is_not_tried_again_in_place() -> None:
    configuration = Configuration(host="http://127.0.0.1:1")
    cluster = Cluster(ApiClient(configuration), configuration)

    with pytest.raises(Unavailable, match="cannot be reached") as raised:
        await cluster.update_secret(SECRET)

    assert not raised.value.failed_quickly
    await cluster.aclose()


async def test_no_write_leaves_the_process_while_the_gate_is_shut(cluster: Cluster, server: Server) -> None:
    cluster.guard_writes(ShutGate())
    manifest = {"metadata": {"namespace": "ml", "name": "bot-train-1"}}

    for write in (
        lambda: cluster.create_child_job(manifest),
        lambda: cluster.create_config_map(manifest),
        lambda: cluster.create_event(manifest),
        lambda: cluster.apply_config_map(manifest),
        lambda: cluster.apply_service(manifest),
        lambda: cluster.update_secret(SECRET),
        lambda: cluster.delete_child_job("ml", "bot-train-1", "uid"),
        lambda: cluster.delete_service("ml", "bot-train-1", "uid"),
        lambda: cluster.delete_finetune_job(JobKey("ml", "bot"), "uid", "1"),
    ):
        with pytest.raises(Unavailable, match="could not be renewed"):
            await write()

    assert server.asked == []


async def test_reads_and_the_lease_itself_pass_a_shut_gate(cluster: Cluster, server: Server) -> None:
    cluster.guard_writes(ShutGate())

    await cluster.read_secret("ml", "keys")
    await cluster.update_lease(SECRET)

    assert server.asked == [
        ("GET", "/api/v1/namespaces/ml/secrets/keys"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/ml/leases/keys"),
    ]


async def test_a_gate_that_shuts_between_two_tries_is_heard(cluster: Cluster, server: Server) -> None:
    class ClosingGate:
        passes = 1

        def check(self) -> None:
            if not self.passes:
                raise Unavailable("the Lease could not be renewed")
            self.passes -= 1

    cluster.guard_writes(ClosingGate())
    server.refuse(429, **{"Retry-After": "0"})

    with pytest.raises(Unavailable, match="could not be renewed"):
        await cluster.update_secret(SECRET)

    assert len(server.asked) == 1


async def test_workloads_are_asked_for_in_the_version_that_kueue_prefers(
    cluster: Cluster, server: Server
) -> None:
    server.answers = [
        web.json_response({"preferredVersion": {"version": "v1beta2"}}),
        *(web.json_response({"items": [{"kind": "Workload"}], "metadata": {}}) for _ in range(2)),
    ]

    for _ in range(2):
        assert [each async for each in cluster.list_workloads_of("ml", "uid-1")] == [{"kind": "Workload"}]

    listing = ("GET", "/apis/kueue.x-k8s.io/v1beta2/namespaces/ml/workloads")
    assert server.asked == [("GET", "/apis/kueue.x-k8s.io"), listing, listing]


async def test_a_version_that_kueue_serves_no_more_is_asked_for_anew(
    cluster: Cluster, server: Server
) -> None:
    server.answers = [
        web.json_response({"preferredVersion": {"version": "v1beta1"}}),
        web.json_response({"message": "gone"}, status=404),
        web.json_response({"preferredVersion": {"version": "v1beta2"}}),
        web.json_response({"items": [], "metadata": {}}),
    ]

    with pytest.raises(NotFound):
        [each async for each in cluster.list_workloads_of("ml", "uid-1")]
    assert [each async for each in cluster.list_workloads_of("ml", "uid-1")] == []

    assert server.asked[-1][1].startswith("/apis/kueue.x-k8s.io/v1beta2/")


async def test_without_kueue_there_are_no_workloads(cluster: Cluster, server: Server) -> None:
    server.refuse(404)

    with pytest.raises(NotFound):
        [each async for each in cluster.list_workloads_of("ml", "uid-1")]
