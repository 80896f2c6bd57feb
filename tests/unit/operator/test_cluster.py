"""What the API server's answers mean, when it is asked again at once, and that no write passes a shut gate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from finetune_api import names
from finetune_operator import api_requests
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
from tests.unit.operator.builders import UID, make_job


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
        (410, "Expired", Unavailable),
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
        self.bodies: list[Any] = []
        self.breaks = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        self.bodies.append(await request.json() if request.can_read_body else None)
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
    monkeypatch.setattr(api_requests, "FIRST_PAUSE_SECONDS", 0.0)
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
        pytest.param(410, {}, id="a list that took too long begins anew"),
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


# --- what is written -------------------------------------------------------------------------------------------


def job_body(*finalizers: str, uid: str = UID) -> dict[str, Any]:
    metadata = {"namespace": "ml", "name": "bot", "uid": uid, "resourceVersion": "7"}
    return {"metadata": {**metadata, "finalizers": list(finalizers)}, "spec": {}}


OTHER = "example.com/other"


async def test_our_finalizer_is_added_to_those_of_others_and_only_to_the_version_that_was_read(
    cluster: Cluster, server: Server
) -> None:
    server.answers = [web.json_response(job_body(OTHER))]

    await cluster.add_finalizer(make_job())

    assert server.asked[-1][0] == "PATCH"
    assert server.bodies[-1] == {"metadata": {"resourceVersion": "7", "finalizers": [OTHER, names.FINALIZER]}}


async def test_a_finalizer_that_is_there_is_not_written_again(cluster: Cluster, server: Server) -> None:
    server.answers = [web.json_response(job_body(names.FINALIZER))]

    assert await cluster.add_finalizer(make_job()) == job_body(names.FINALIZER)

    assert len(server.asked) == 1


async def test_another_job_of_the_same_name_gets_no_finalizer(cluster: Cluster, server: Server) -> None:
    server.answers = [web.json_response(job_body(uid="uid-2"))]

    with pytest.raises(NotFound):
        await cluster.add_finalizer(make_job())

    assert len(server.asked) == 1


async def test_only_our_finalizer_is_removed(cluster: Cluster, server: Server) -> None:
    server.answers = [web.json_response(job_body(names.FINALIZER, OTHER))]

    await cluster.remove_finalizer(job_body())

    assert server.bodies[-1] == {"metadata": {"resourceVersion": "7", "finalizers": [OTHER]}}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((404, {}), id="the job is gone"),
        pytest.param((200, job_body(OTHER)), id="it has none of ours"),
        pytest.param((200, job_body(names.FINALIZER, uid="uid-2")), id="it is another one by now"),
    ],
)
async def test_where_there_is_no_finalizer_of_ours_none_is_removed(
    answer: tuple[int, dict[str, Any]], cluster: Cluster, server: Server
) -> None:
    status, body = answer
    server.answers = [web.json_response(body, status=status)]

    await cluster.remove_finalizer(job_body())

    assert len(server.asked) == 1


@pytest.mark.parametrize(("foreground", "policy"), [(False, "Background"), (True, "Foreground")])
async def test_a_job_is_deleted_only_if_it_is_the_one_that_is_meant(
    foreground: bool, policy: str, cluster: Cluster, server: Server
) -> None:
    await cluster.delete_child_job("ml", "bot-train-1", "uid-9", foreground=foreground)

    assert server.bodies == [{"propagationPolicy": policy, "preconditions": {"uid": "uid-9"}}]


async def test_a_finished_job_is_deleted_only_in_the_version_that_was_judged(
    cluster: Cluster, server: Server
) -> None:
    server.refuse(409)

    with pytest.raises(Conflict):
        await cluster.delete_finetune_job(JobKey("ml", "bot"), "uid-1", "7")

    assert server.bodies[0]["preconditions"] == {"uid": "uid-1", "resourceVersion": "7"}


async def test_a_service_is_applied_by_the_server_in_our_name(cluster: Cluster, server: Server) -> None:
    manifest = {"metadata": {"namespace": "ml", "name": "bot-train-1"}, "spec": {"clusterIP": "None"}}

    await cluster.apply_service(manifest)

    assert server.asked == [("PATCH", "/api/v1/namespaces/ml/services/bot-train-1")]
    assert server.bodies == [manifest]
