"""Who may report progress, how often, how much, and about which job."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from finetune_api.progress import PROGRESS_PATH
from finetune_operator.cluster import TokenVerdict, Unavailable
from finetune_operator.observation import PodFacts, ReceivedReport, Reporter
from finetune_operator.progress_server import ProgressServer, RateLimit
from finetune_operator.token_reviews import PodIdentity, TokenReviews
from tests.unit.operator.builders import NOW
from tests.unit.operator.pod_tokens import EPOCH, POD_1, make_token

Client = TestClient[Request, Application]
POD_OF_RANK_1 = PodIdentity("ml", "bot-train-1-1-fghij", "pod-2")


class Reviewer:
    """The API server's part: says whose token it is."""

    def __init__(self) -> None:
        self.asked = 0
        self.pods = {make_token(): POD_1, make_token(POD_OF_RANK_1): POD_OF_RANK_1}
        self.available = True

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        self.asked += 1
        if not self.available:
            raise Unavailable("no answer")
        pod = self.pods.get(token)
        if pod is None:
            return TokenVerdict(False)
        return TokenVerdict(True, f"system:serviceaccount:{pod.namespace}:default", pod.name, pod.uid)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Pods:
    """The cache's part: two pods of job-1's Job child-1."""

    def __init__(self) -> None:
        self.known = {POD_1.uid: make_reporter(POD_1, 0), POD_OF_RANK_1.uid: make_reporter(POD_OF_RANK_1, 1)}

    def reporter(self, pod_uid: str) -> Reporter | None:
        return self.known.get(pod_uid)


def make_reporter(pod: PodIdentity, rank: int) -> Reporter:
    facts = PodFacts(
        name=pod.name, namespace=pod.namespace, uid=pod.uid, job_uid="child-1", created=NOW, rank=rank
    )
    return Reporter(facts, "child-1", "job-1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reviewer() -> Reviewer:
    return Reviewer()


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def delivered() -> list[tuple[str, ReceivedReport]]:
    return []


@pytest.fixture
async def client(
    reviewer: Reviewer, pods: Pods, clock: Clock, delivered: list[tuple[str, ReceivedReport]]
) -> AsyncIterator[Client]:
    server = ProgressServer(
        TokenReviews(reviewer, monotonic=clock, wall_clock=lambda: EPOCH + clock.now),
        pods,
        lambda owner, report: delivered.append((owner, report)),
        lambda: NOW,
        RateLimit(clock),
    )
    async with TestClient(TestServer(server.application())) as client:
        yield client


async def post(client: Client, body: Any, token: str | None = None, **headers: str) -> int:
    sent = {"Authorization": f"Bearer {token or make_token()}", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client.post(PROGRESS_PATH, data=content, headers=sent) as response:
        return response.status


REPORT = {"trainerStatus": {"progressPercentage": 10}, "finetune": {"step": 1, "totalSteps": 10}}


async def test_a_report_reaches_the_job_of_the_tokens_pod(
    client: Client, delivered: list[tuple[str, ReceivedReport]]
) -> None:
    assert await post(client, REPORT) == 200

    ((owner, received),) = delivered
    assert (owner, received.job_uid, received.received) == ("job-1", "child-1", NOW)
    assert received.report.finetune is not None
    assert received.report.finetune.step == 1


@pytest.mark.parametrize(
    "report",
    [
        pytest.param({"trainerStatus": {}}, id="nothing known yet"),
        pytest.param({"trainerStatus": {"progressPercentage": 0}}, id="no percent done"),
        pytest.param({"trainerStatus": {"progressPercentage": 100}}, id="all done"),
        pytest.param({"trainerStatus": {"lastUpdatedTime": "2026-01-01T12:00:00+00:00"}}, id="a time"),
        pytest.param(
            {"trainerStatus": {"new": 1, "metrics": []}, "more": {}}, id="fields of a later version"
        ),
        pytest.param({"trainerStatus": {"metrics": [{"name": "loss", "value": "nan"}]}}, id="NaN as text"),
        pytest.param(
            {"trainerStatus": {"metrics": [{"name": "loss", "value": "1e+300"}]}}, id="a huge figure"
        ),
    ],
)
async def test_what_other_trainers_send_is_accepted(client: Client, report: dict[str, Any]) -> None:
    assert await post(client, report) == 200


async def test_of_a_plain_trainers_metrics_only_those_are_kept_that_status_shows(
    client: Client, delivered: list[tuple[str, ReceivedReport]]
) -> None:
    many = [{"name": f"eval_{number}", "value": "1.0"} for number in range(200)]
    told = [{"name": "loss", "value": "1.5"}, *many, {"name": "current_step", "value": "3"}]

    assert await post(client, {"trainerStatus": {"metrics": told}}) == 200

    ((_, received),) = delivered
    assert [each.name for each in received.report.trainer_status.metrics] == ["loss", "current_step"]


async def test_what_a_plain_trainer_leaves_out_is_taken_from_what_it_told_before(
    client: Client, delivered: list[tuple[str, ReceivedReport]], clock: Clock
) -> None:
    """As KubeflowCallback reports: the plan, a step, the end."""
    for metrics in (
        [{"name": "total_steps", "value": "3"}],
        [{"name": "loss", "value": "2.0"}, {"name": "current_step", "value": "3"}],
        [{"name": "loss", "value": "1.0"}, {"name": "train_loss", "value": "1.5"}],
    ):
        assert await post(client, {"trainerStatus": {"metrics": metrics}}) == 200

    told = {each.name: each.value for each in delivered[-1][1].report.trainer_status.metrics}
    assert told == {"total_steps": "3", "current_step": "3", "loss": "1.0"}


async def test_one_pod_is_never_credited_with_anothers_metrics(
    client: Client, reviewer: Reviewer, pods: Pods, delivered: list[tuple[str, ReceivedReport]]
) -> None:
    other = PodIdentity("ml", "other-train-1-0-klmno", "pod-3")
    pods.known[other.uid], reviewer.pods[make_token(other)] = make_reporter(other, 0), other

    await post(client, {"trainerStatus": {"metrics": [{"name": "loss", "value": "2.0"}]}})
    await post(client, {"trainerStatus": {}}, make_token(other))

    assert delivered[-1][1].report.trainer_status.metrics == ()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 400, id="nothing"),
        pytest.param(b"{", 400, id="no JSON"),
        pytest.param(b"\xff\xfe", 400, id="no text"),
        pytest.param(b"[" * 60_000, 400, id="deeply nested"),
        pytest.param([], 400, id="a list"),
        pytest.param({"trainerStatus": {"progressPercentage": 101}}, 400, id="101 percent"),
        pytest.param({"trainerStatus": {"progressPercentage": -1}}, 400, id="less than nothing"),
        pytest.param({"trainerStatus": {"estimatedRemainingSeconds": -5}}, 400, id="done in the past"),
        pytest.param(
            {"trainerStatus": {"metrics": [{"name": "n" * 300, "value": "1"}]}}, 400, id="a long name"
        ),
        pytest.param(
            {"trainerStatus": {}, "finetune": {"step": -1, "totalSteps": 1}}, 400, id="a negative step"
        ),
        pytest.param(
            b'{"trainerStatus": {}, "finetune": {"step": 1, "totalSteps": 1, "loss": NaN}}', 400, id="NaN"
        ),
        pytest.param(
            b'{"trainerStatus": {}, "finetune": {"step": 1, "totalSteps": 1, "loss": 1e999}}',
            400,
            id="infinite",
        ),
        pytest.param({"trainerStatus": {}, "x": "y" * 66_000}, 413, id="more than the limit"),
    ],
)
async def test_a_malformed_report_is_refused_and_delivers_nothing(
    client: Client, delivered: list[tuple[str, ReceivedReport]], body: Any, status: int
) -> None:
    assert await post(client, body) == status
    assert delivered == []


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="nothing"),
        pytest.param("Basic dXNlcg==", id="a password"),
        pytest.param("Bearer", id="no token"),
        pytest.param("Bearer ", id="an empty token"),
        pytest.param("Bearer strange", id="no JSON web token"),
    ],
)
async def test_without_a_pods_token_nobody_is_heard(client: Client, reviewer: Reviewer, header: str) -> None:
    assert await post(client, REPORT, Authorization=header) == 401
    assert reviewer.asked == 0


async def test_a_token_that_the_api_server_does_not_know_is_refused(client: Client) -> None:
    assert await post(client, REPORT, make_token(iat=1)) == 401


@pytest.mark.parametrize(
    "issued_to",
    [
        pytest.param(PodIdentity("ml", "bot-train-1-9-zzzzz", POD_1.uid), id="another name"),
        pytest.param(PodIdentity("other", POD_1.name, POD_1.uid), id="another namespace"),
        pytest.param(PodIdentity("ml", POD_1.name, "pod-9"), id="another uid than the token itself says"),
    ],
)
async def test_name_namespace_and_uid_must_all_be_the_pods(
    client: Client,
    reviewer: Reviewer,
    delivered: list[tuple[str, ReceivedReport]],
    issued_to: PodIdentity,
) -> None:
    reviewer.pods[make_token()] = issued_to

    assert await post(client, REPORT) == 401
    assert delivered == []


async def test_a_pod_of_no_job_is_told_to_come_again_and_nobody_is_asked_about_it(
    client: Client, reviewer: Reviewer
) -> None:
    assert await post(client, REPORT, make_token(PodIdentity("ml", "stranger", "pod-9"))) == 503
    assert reviewer.asked == 0


async def test_a_deleted_pod_is_not_heard_although_the_verdict_about_its_token_is_kept(
    client: Client, pods: Pods, delivered: list[tuple[str, ReceivedReport]]
) -> None:
    assert await post(client, REPORT) == 200
    del pods.known[POD_1.uid]

    assert await post(client, REPORT) == 503
    assert len(delivered) == 1


async def test_while_the_api_server_is_away_pods_are_told_to_come_again(
    client: Client, reviewer: Reviewer
) -> None:
    reviewer.available = False

    assert await post(client, REPORT) == 503


async def test_of_a_gang_only_rank_0_is_shown(
    client: Client, delivered: list[tuple[str, ReceivedReport]]
) -> None:
    assert await post(client, {"trainerStatus": {"progressPercentage": 90}}, make_token(POD_OF_RANK_1)) == 200
    assert delivered == []

    assert await post(client, REPORT) == 200
    assert len(delivered) == 1


async def test_a_pod_may_report_in_bursts_but_not_for_ever(client: Client, clock: Clock) -> None:
    codes = [await post(client, REPORT) for _ in range(6)]
    assert codes == [200] * 5 + [429]
    assert await post(client, REPORT, make_token(POD_OF_RANK_1)) == 200, "another pod"

    clock.now += 1
    assert await post(client, REPORT) == 200


async def test_other_paths_and_methods_are_not_there(client: Client) -> None:
    session: ClientSession = client.session
    async with session.get(client.make_url(PROGRESS_PATH)) as response:
        assert response.status == 405
    async with session.get(client.make_url("/")) as response:
        assert response.status == 404
