"""An API server that errs, throttles, loses answers or goes away: nothing is lost, doubled, or asked for too often."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from devcluster import ControlPlane
from tests.integration.operator.api_client import BATCH, CORE, Api, RequestRefused, wait_until
from tests.integration.operator.kubelet import Kubelet, job_is_there
from tests.integration.operator.outages.replica import Replica
from tests.integration.operator.steps import (
    apply_job,
    attempts,
    child_jobs,
    finish_from_training,
    reach_preparing,
    reach_training,
)
from tests.stand_ins.api_proxy import ApiProxy, Seen, requests, watches

RECOVERY_SECONDS = 30
STAGES = [("prepare", 1), ("train", 1), ("export", 1)]


def live_a_whole_life(api: Api, kubelet: Kubelet) -> None:
    """From creation to Succeeded, by way of every phase."""
    apply_job(api)
    reach_preparing(api, kubelet)
    reach_training(api, kubelet)
    finish_from_training(api, kubelet)


def asked(proxy: ApiProxy) -> list[Seen]:
    """All requests but watches and those that only keep the Lease."""
    return [each for each in proxy.seen if not each.is_watch and "/leases/" not in each.path]


def made(proxy: ApiProxy, plural: str) -> list[str]:
    """What was really created."""
    return [
        each.path
        for each in asked(proxy)
        if each.method == "POST" and each.path.endswith(f"/{plural}") and each.status == 201
    ]


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with every third request of a kind, or with the first of them."""

    id: str
    make: Callable[[ApiProxy], object]


def every_third(proxy: ApiProxy, trouble: Callable[[Callable[..., bool]], object], method: str = "") -> None:
    """Make trouble for every third request."""
    count = iter(range(10**9))
    matches = requests(method, "/(jobs|configmaps|events|finetunejobs|pods|services)")
    trouble(lambda request: matches(request) and next(count) % 3 == 2)


FOREVER = float("inf")
NOW = {"Retry-After": "1"}
TROUBLES = [
    Trouble(
        "conflicts of every other status write",
        lambda proxy: [
            proxy.answer(409, reason="Conflict", to=requests("PUT", "/status$"), times=2),
        ],
    ),
    Trouble(
        "429 with Retry-After",
        lambda proxy: every_third(proxy, lambda to: proxy.answer(429, headers=NOW, to=to, times=FOREVER)),
    ),
    Trouble("500", lambda proxy: every_third(proxy, lambda to: proxy.answer(500, to=to, times=FOREVER))),
    Trouble("503", lambda proxy: every_third(proxy, lambda to: proxy.answer(503, to=to, times=FOREVER))),
    Trouble(
        "connections that are reset before anything is done",
        lambda proxy: every_third(proxy, lambda to: proxy.reset(to=to, times=FOREVER)),
    ),
    Trouble(
        "writes that are carried out and never answered",
        lambda proxy: [
            every_third(proxy, lambda to: proxy.reset(to=to, times=FOREVER, carried_out=True), method)
            for method in ("POST", "PUT", "PATCH", "DELETE")
        ],
    ),
]


@pytest.fixture(scope="module")
def fault_free_requests() -> list[int]:
    """How many requests a life without faults takes; the first test measures it."""
    return []


def test_a_life_without_faults(
    replica: Replica, api: Api, kubelet: Kubelet, fault_free_requests: list[int]
) -> None:
    """What the others are compared with."""
    replica.start()
    before = len(asked(replica.proxy))

    live_a_whole_life(api, kubelet)

    fault_free_requests.append(len(asked(replica.proxy)) - before)
    assert [each for each in asked(replica.proxy) if each.status >= 400 and each.status != 404] == []


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.id)
def test_a_life_with_faults_ends_well_with_one_job_an_attempt_and_few_more_requests(
    trouble: Trouble, replica: Replica, api: Api, kubelet: Kubelet, fault_free_requests: list[int]
) -> None:
    replica.start()
    before = len(asked(replica.proxy))
    trouble.make(replica.proxy)

    live_a_whole_life(api, kubelet)

    print(trouble.id, len(asked(replica.proxy)) - before, fault_free_requests)
    assert [(stage, number) for stage, number, _, _ in attempts(api)] == STAGES
    assert len(made(replica.proxy, "jobs")) <= len(STAGES)
    assert len(asked(replica.proxy)) - before <= 2 * fault_free_requests[0]
    assert not replica.has_ended()
