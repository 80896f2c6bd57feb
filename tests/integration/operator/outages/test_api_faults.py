"""An API server that errs, throttles, loses answers or goes away: nothing is lost, doubled, or asked for too often."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from math import inf

import pytest

from devcluster import ControlPlane
from finetune_api import PLURAL
from tests.integration.operator.api_client import BATCH, COORDINATION, FINETUNE, Api, wait_until
from tests.integration.operator.chart import Installation
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.kubelet import PREPARED, Kubelet, job_is_there
from tests.integration.operator.outages.replica import Replica
from tests.integration.operator.process import LEASE
from tests.integration.operator.steps import (
    apply_job,
    attempts,
    finish_from_training,
    reach_preparing,
    reach_training,
)
from tests.stand_ins.api_proxy import ApiProxy, Match, Seen, requests, watches

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


def posted_jobs(proxy: ApiProxy) -> list[Seen]:
    """Every try to create a Job."""
    return [each for each in asked(proxy) if each.method == "POST" and each.path.endswith("/jobs")]


def created_jobs(proxy: ApiProxy) -> int:
    """How many Jobs it knows that it has created."""
    return sum(each.status == 201 for each in posted_jobs(proxy))


@dataclass(frozen=True)
class Trouble:
    """What goes wrong."""

    id: str
    make: Callable[[ApiProxy], object]


def every_third(matches: Match) -> Match:
    """Match every third of the requests that match."""
    numbers = itertools.count(1)
    return lambda request: matches(request) and next(numbers) % 3 == 0


ANY = requests(path="/(jobs|configmaps|events|finetunejobs|pods)")
WRITES = [
    requests(method, "/(jobs|configmaps|events|finetunejobs)")
    for method in ("POST", "PUT", "PATCH", "DELETE")
]
COME_AGAIN = {"Retry-After": "1"}
TROUBLES = [
    Trouble("409", lambda proxy: proxy.answer(409, to=requests("PUT", "/status$"), times=5)),
    Trouble("429", lambda proxy: proxy.answer(429, headers=COME_AGAIN, to=every_third(ANY), times=inf)),
    Trouble("500", lambda proxy: proxy.answer(500, to=every_third(ANY), times=inf)),
    Trouble("503", lambda proxy: proxy.answer(503, to=every_third(ANY), times=inf)),
    Trouble("reset before", lambda proxy: proxy.reset(to=every_third(ANY), times=inf)),
    Trouble(
        "reset after",
        lambda proxy: [proxy.reset(to=every_third(each), times=inf, carried_out=True) for each in WRITES],
    ),
]


@pytest.fixture(scope="module")
def requests_without_faults(
    site: ControlPlane, installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """How many requests a life without faults takes."""
    with ApiProxy(site) as proxy, ExitStack() as stack:
        replica = Replica(installation, "pod-0", proxy, tmp_path_factory.mktemp("fault-free"))
        stack.callback(replica.kill)
        api = make_namespace(site, "test")
        replica.start()
        before = len(asked(proxy))
        live_a_whole_life(api, Kubelet(api))
        assert replica.stop() == 0
        assert [each for each in asked(proxy) if each.status >= 400 and each.status != 404] == []
        yield len(asked(proxy)) - before


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.id)
def test_a_life_with_faults_ends_well_with_one_job_an_attempt_and_at_most_twice_the_requests(
    trouble: Trouble, replica: Replica, api: Api, kubelet: Kubelet, requests_without_faults: int
) -> None:
    replica.start()
    before = len(asked(replica.proxy))
    trouble.make(replica.proxy)

    live_a_whole_life(api, kubelet)

    assert [(stage, number) for stage, number, _, _ in attempts(api)] == STAGES
    assert created_jobs(replica.proxy) <= len(STAGES)
    assert len(asked(replica.proxy)) - before <= 2 * requests_without_faults
    assert not replica.has_ended()


@pytest.mark.parametrize("pause_seconds", [1, 4], ids=["a short pause", "a long pause"])
def test_the_pause_that_is_asked_for_is_kept(pause_seconds: int, replica: Replica, api: Api) -> None:
    replica.start()
    to = requests("POST", "/jobs$")
    replica.proxy.answer(429, headers={"Retry-After": str(pause_seconds)}, to=to, times=2)

    apply_job(api)
    job_is_there(api, "bot-prepare-1")

    posted_at = [each.at for each in posted_jobs(replica.proxy)]
    assert len(posted_at) == 3
    assert all(later - earlier >= pause_seconds for earlier, later in itertools.pairwise(posted_at))


def test_what_a_user_writes_meanwhile_is_not_overwritten(
    replica: Replica, api: Api, kubelet: Kubelet
) -> None:
    """The status is computed from a version that is no longer the newest when it is written."""
    replica.start()
    held_up = replica.proxy.delay(2, to=requests("PUT", "/status$"), times=1)
    apply_job(api)
    wait_until(lambda: held_up.happened)
    api.patch(
        FINETUNE, PLURAL, "bot", {"metadata": {"annotations": {"note": "mine"}}, "spec": {"suspend": True}}
    )

    api.wait_for_status("bot", phase="Suspended")
    assert api.job("bot")["metadata"]["annotations"]["note"] == "mine"
    assert api.job("bot")["spec"]["suspend"] is True


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_watches_and_their_listings_come_back_after_errors(status: int, replica: Replica, api: Api) -> None:
    kopfs_own = requests("GET", "/(finetunejobs|jobs|pods)$")
    replica.proxy.answer(status, to=watches(), times=4)
    replica.start()
    # The operator lists by itself before it is ready; listings after that are kopf's.
    fault = replica.proxy.answer(status, to=kopfs_own, times=4)
    replica.proxy.expire_open_watches(to=watches())

    apply_job(api)

    job_is_there(api, "bot-prepare-1")
    wait_until(lambda: fault.happened or replica.proxy.expire_open_watches(to=watches()) == 0)
    assert not replica.has_ended()


def test_a_watch_that_cannot_come_back_ends_the_process_in_good_order(replica: Replica) -> None:
    """As when the CRD is removed: the next process waits until it is there again."""
    replica.proxy.answer(404, to=watches("/finetunejobs$"), times=inf)
    replica.spawn()

    assert replica.wait_for_end(15) != 0

    lease = replica.home.read(COORDINATION, "leases", LEASE)
    assert lease is not None
    assert "holderIdentity" not in lease["spec"]


def test_one_that_never_reached_the_api_server_ends_when_it_is_told_to(replica: Replica) -> None:
    replica.proxy.reset(to=requests(), times=inf)
    replica.spawn()

    assert replica.ask("readyz")[0] == 503
    assert replica.stop() == 0


# --- the real ones go away -------------------------------------------------------------------------------------


@contextmanager
def api_server_stopped(site: ControlPlane) -> Iterator[None]:
    """The API server is away."""
    site.stop_apiserver()
    try:
        yield
    finally:
        site.start_apiserver()


@contextmanager
def etcd_killed(site: ControlPlane) -> Iterator[None]:
    """The API server answers, but can neither read nor write."""
    etcd = next(each for each in site.components() if each.name == "etcd")
    record = site.processes.load(etcd.name)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    try:
        yield
    finally:
        site.processes.start(etcd)
        site.processes.wait_ready(etcd)
        wait_until(site.client.is_ready, 30)


def restart_controllers(site: ControlPlane) -> None:
    """They make the pods, but theirs is not the recovery that is tested: by themselves they take half a minute."""
    site.processes.stop("kube-controller-manager")
    site.start()


@pytest.mark.parametrize("outage", [api_server_stopped, etcd_killed], ids=lambda outage: outage.__name__)
@pytest.mark.parametrize(
    "lease_seconds",
    [
        pytest.param(60, marks=pytest.mark.long_fault, id="shorter than the Lease"),
        pytest.param(3, id="longer than the Lease"),
    ],
)
def test_after_an_outage_the_same_process_goes_on_and_nothing_exists_twice(
    outage: Callable[[ControlPlane], AbstractContextManager[None]],
    lease_seconds: int,
    site: ControlPlane,
    replica: Replica,
    api: Api,
    kubelet: Kubelet,
) -> None:
    replica.start(FINETUNE_LEASE_SECONDS=str(lease_seconds))
    apply_job(api)
    reach_preparing(api, kubelet)
    with outage(site):
        assert replica.probe_answers(6) == {200}
    restart_controllers(site)

    apply_job(api, "second")
    kubelet.succeed("bot-prepare-1", PREPARED)
    wait_until(lambda: api.read(BATCH, "jobs", "second-prepare-1"), RECOVERY_SECONDS)
    wait_until(lambda: api.read(BATCH, "jobs", "bot-train-1"), RECOVERY_SECONDS)

    wait_until(lambda: len(attempts(api)) == 2 and len(attempts(api, "second")) == 1)
    assert created_jobs(replica.proxy) == 3
    assert not replica.has_ended()
