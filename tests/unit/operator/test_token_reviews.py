"""Verdicts about tokens: who is asked, how often, and how long an answer counts."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator import token_reviews
from finetune_operator.cluster import TokenVerdict, Unavailable
from finetune_operator.token_reviews import PodIdentity, TokenReviews
from tests.unit.operator.pod_tokens import EPOCH, POD_1, encode, make_claims, make_token


class Reviewer:
    """The API server's part: says whose token it is, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.pods = {make_token(): POD_1}
        self.username: str | None = None

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        assert audience == "finetune-operator"
        self.asked += 1
        pod = self.pods.get(token)
        if pod is None:
            return TokenVerdict(False)
        username = self.username or f"system:serviceaccount:{pod.namespace}:default"
        return TokenVerdict(True, username, pod.name, pod.uid)


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


def unknown(number: int) -> str:
    """A token that looks right and is not."""
    return make_token(PodIdentity("ml", "stranger", f"uid-{number}"))


async def test_a_token_tells_the_pod_it_was_issued_to(reviews: TokenReviews) -> None:
    assert await reviews.identify_pod(make_token()) == POD_1


async def test_a_verdict_is_kept_until_the_token_expires(
    reviews: TokenReviews, reviewer: Reviewer, clock: Clock
) -> None:
    for clock.now in (0, 1, 3599):
        assert await reviews.identify_pod(make_token()) == POD_1
    assert reviewer.asked == 1

    clock.now = 3600
    assert await reviews.identify_pod(make_token()) is None
    assert reviewer.asked == 1


async def test_a_refusal_is_kept_for_half_a_minute(
    reviews: TokenReviews, reviewer: Reviewer, clock: Clock
) -> None:
    for clock.now in (0, 29):
        assert await reviews.identify_pod(unknown(1)) is None
    assert reviewer.asked == 1

    clock.now = 30
    await reviews.identify_pod(unknown(1))
    assert reviewer.asked == 2


@pytest.mark.parametrize(
    "username",
    [
        pytest.param("alice", id="a user"),
        pytest.param("system:node:node-1", id="a node"),
    ],
)
async def test_what_is_no_service_account_is_nobody(
    reviews: TokenReviews, reviewer: Reviewer, username: str
) -> None:
    reviewer.username = username

    assert await reviews.identify_pod(make_token()) is None


def without(claims: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = claims
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return claims


HEADER = encode({"alg": "RS256"})


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="nothing"),
        pytest.param("strange", id="no JSON web token"),
        pytest.param("a.b.c", id="no base64"),
        pytest.param("é.ü.ö", id="no ASCII"),
        pytest.param(f"{HEADER}.{encode(b'[]')}.x", id="a list"),
        pytest.param(f"{HEADER}.{encode(b'[' * 100_000)}.x", id="deeply nested"),
        pytest.param(f"{HEADER}.{encode(make_claims())}", id="no signature"),
        pytest.param(f"{HEADER}.{encode(without(make_claims(), 'kubernetes.io', 'pod'))}.x", id="of no pod"),
        pytest.param(f"{HEADER}.{encode(without(make_claims(), 'exp'))}.x", id="for ever"),
        pytest.param(make_token(exp="2030"), id="a text as expiry"),
        pytest.param(make_token(exp=True), id="a truth value as expiry"),
        pytest.param(f"{HEADER}.{encode(make_claims(exp=float('inf')))}.x", id="infinite expiry"),
        pytest.param(make_token(expires_in=-1), id="expired"),
        pytest.param(make_token(aud=["https://kubernetes.default.svc"]), id="for the API server"),
        pytest.param(make_token(aud=[]), id="for nobody"),
        pytest.param(make_token(aud={"finetune-operator": 1}, iss=1), id="claims of other kinds"),
    ],
)
async def test_for_what_cannot_be_a_pods_token_nobody_is_asked(
    reviews: TokenReviews, reviewer: Reviewer, token: str
) -> None:
    assert await reviews.identify_pod(token) is None
    assert reviewer.asked == 0


async def test_a_flood_of_unknown_tokens_does_not_reach_the_api_server(
    reviews: TokenReviews, reviewer: Reviewer, clock: Clock
) -> None:
    for number in range(50):
        await reviews.identify_pod(unknown(number))
    with pytest.raises(Unavailable):
        await reviews.identify_pod(unknown(50))
    assert reviewer.asked == 50

    clock.now += 0.1
    assert await reviews.identify_pod(make_token()) == POD_1


async def test_of_too_many_verdicts_the_one_used_longest_ago_is_dropped(
    reviews: TokenReviews, reviewer: Reviewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_reviews, "MAX_VERDICTS", 3)
    for number in range(9):
        await reviews.identify_pod(make_token())
        await reviews.identify_pod(unknown(number))

    assert len(reviews._kept) == 3
    assert reviewer.asked == 1 + 9


async def test_no_token_is_kept_in_memory(reviews: TokenReviews) -> None:
    await reviews.identify_pod(make_token())

    assert make_token() not in repr(vars(reviews))
