"""Who may report progress, how often, how much, and about which job."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from finetune_api.progress import PROGRESS_PATH
from finetune_operator import token_reviews
from finetune_operator.cluster import TokenVerdict, Unavailable
from finetune_operator.observation import ReceivedReport
from finetune_operator.progress_server import ProgressServer, RateLimit
from finetune_operator.token_reviews import TokenReviews
from tests.unit.operator.builders import NOW

EPOCH = 1_000_000.0
Client = TestClient[Request, Application]


def make_token(expires_in: float = 3600, name: str = "pod") -> str:
    """A token as the API server would issue it; only `exp` is ever read here."""
    claims = json.dumps({"exp": EPOCH + expires_in, "name": name})
    return f"e30.{base64.urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.c2ln"


class Reviewer:
    """The API server's part: says whose token it is, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.pods = {make_token(): "pod-1"}
        self.available = True

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        assert audience == "finetune-operator"
        self.asked += 1
        if not self.available:
            raise Unavailable("no answer")
        uid = self.pods.get(token, "")
        return TokenVerdict(bool(uid), pod_uid=uid)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reviewer() -> Reviewer:
    return Reviewer()


@pytest.fixture
def reviews(reviewer: Reviewer, clock: Clock) -> TokenReviews:
    return TokenReviews(reviewer, monotonic=clock, wall_clock=lambda: EPOCH + clock.now)


class Pods:
    """pod-1 is of job-1's Job child-1."""

    def child_of_pod(self, pod_uid: str) -> tuple[str, str] | None:
        return ("child-1", "job-1") if pod_uid == "pod-1" else None


@pytest.fixture
def delivered() -> list[tuple[str, ReceivedReport]]:
    return []


@pytest.fixture
async def client(
    reviews: TokenReviews, clock: Clock, delivered: list[tuple[str, ReceivedReport]]
) -> AsyncIterator[Client]:
    server = ProgressServer(
        reviews,
        Pods(),
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
    assert await post(client, REPORT) == 204

    ((owner, received),) = delivered
    assert (owner, received.job_uid, received.received) == ("job-1", "child-1", NOW)
    assert received.report.finetune is not None
    assert received.report.finetune.step == 1


async def test_unknown_fields_of_other_trainers_do_no_harm(client: Client) -> None:
    report = {"trainerStatus": {"progressPercentage": 10, "metrics": [], "new": 1}, "more": {}}

    assert await post(client, report) == 204


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"{", 400, id="no JSON"),
        pytest.param([], 400, id="a list"),
        pytest.param({"finetune": {"step": 1, "totalSteps": 1}}, 400, id="no trainerStatus"),
        pytest.param({"trainerStatus": {"progressPercentage": 101}}, 400, id="101 percent"),
        pytest.param(
            b'{"trainerStatus": {}, "finetune": {"step": 1, "totalSteps": 1, "loss": NaN}}', 400, id="NaN"
        ),
        pytest.param({"trainerStatus": {}, "x": "y" * 66_000}, 413, id="more than the limit"),
    ],
)
async def test_a_malformed_report_is_refused_and_delivers_nothing(
    client: Client, delivered: list[tuple[str, ReceivedReport]], body: Any, status: int
) -> None:
    assert await post(client, body) == status
    assert delivered == []


@pytest.mark.parametrize("header", ["", "Basic dXNlcg==", "Bearer", "Bearer "])
async def test_without_a_bearer_token_nobody_is_heard(
    client: Client, reviewer: Reviewer, header: str
) -> None:
    assert await post(client, REPORT, Authorization=header) == 401
    assert reviewer.asked == 0


async def test_a_token_that_the_api_server_does_not_know_is_refused(client: Client) -> None:
    assert await post(client, REPORT, "strange") == 401


async def test_a_pod_of_no_job_is_told_to_come_again(client: Client, reviewer: Reviewer) -> None:
    reviewer.pods["other"] = "pod-9"

    assert await post(client, REPORT, "other") == 503


async def test_while_the_api_server_is_away_pods_are_told_to_come_again(
    client: Client, reviewer: Reviewer
) -> None:
    reviewer.available = False

    assert await post(client, REPORT) == 503


async def test_a_pod_may_report_in_bursts_but_not_for_ever(client: Client, clock: Clock) -> None:
    codes = [await post(client, REPORT) for _ in range(6)]
    assert codes == [204] * 5 + [429]

    clock.now += 1
    assert await post(client, REPORT) == 204


async def test_other_paths_and_methods_are_not_there(client: Client) -> None:
    session: ClientSession = client.session
    async with session.get(client.make_url(PROGRESS_PATH)) as response:
        assert response.status == 405
    async with session.get(client.make_url("/")) as response:
        assert response.status == 404


# --- verdicts -----------------------------------------------------------------------------------------------------


async def test_a_verdict_is_kept_for_ten_minutes(
    reviews: TokenReviews, reviewer: Reviewer, clock: Clock
) -> None:
    for clock.now in (0, 1, 599):
        assert await reviews.identify_pod(make_token()) == "pod-1"
    assert reviewer.asked == 1

    clock.now = 600
    await reviews.identify_pod(make_token())
    assert reviewer.asked == 2


async def test_a_verdict_is_never_kept_longer_than_the_token_lives(
    reviews: TokenReviews, reviewer: Reviewer, clock: Clock
) -> None:
    short = make_token(expires_in=60)
    reviewer.pods[short] = "pod-1"
    await reviews.identify_pod(short)
    del reviewer.pods[short]

    clock.now = 61
    assert await reviews.identify_pod(short) is None


async def test_a_refusal_is_kept_for_half_a_minute(
    reviews: TokenReviews, reviewer: Reviewer, clock: Clock
) -> None:
    for clock.now in (0, 29):
        assert await reviews.identify_pod("strange") is None
    assert reviewer.asked == 1


async def test_a_token_of_no_pod_is_nobodys(reviews: TokenReviews, reviewer: Reviewer) -> None:
    reviewer.pods["user"] = ""

    assert await reviews.identify_pod("user") is None


async def test_a_flood_of_unknown_tokens_does_not_reach_the_api_server(
    reviews: TokenReviews, reviewer: Reviewer
) -> None:
    for number in range(50):
        await reviews.identify_pod(f"unknown-{number}")
    with pytest.raises(Unavailable):
        await reviews.identify_pod("one more")

    assert reviewer.asked == 50


async def test_the_number_of_verdicts_is_bounded(
    reviews: TokenReviews, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_reviews, "MAX_VERDICTS", 3)

    for number in range(9):
        await reviews.identify_pod(f"unknown-{number}")

    assert len(reviews._kept) == 3
