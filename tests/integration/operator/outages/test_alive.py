"""A watch that falls silent is opened anew; where that does not help, the liveness probe says which one is dead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from finetune_api import PLURAL
from tests.integration.operator.api_client import BATCH, Api, wait_until
from tests.integration.operator.kubelet import Kubelet, job_is_there
from tests.integration.operator.outages.replica import Replica
from tests.integration.operator.steps import apply_job, attempts
from tests.stand_ins.api_proxy import requests, watches

IMPATIENT = {"FINETUNE_WATCH_INACTIVITY_SECONDS": "3", "FINETUNE_WATCH_SILENCE_SECONDS": "8"}
RECOVERY_SECONDS = 90
KINDS = (PLURAL, "jobs", "pods")


def opened_watches(replica: Replica, kind: str = "") -> int:
    """How many watches it has opened so far."""
    return sum(each.is_watch and each.path.endswith(kind) for each in replica.proxy.seen)


def started(replica: Replica, **environment: str) -> Replica:
    """Ready, and all three watches are open."""
    replica.start(**environment)
    wait_until(lambda: opened_watches(replica) >= len(KINDS))
    return replica


@dataclass(frozen=True)
class Change:
    """Something that a watch tells of, and what the operator makes of it."""

    kind: str
    make: Callable[[Api, Kubelet], object]
    is_noticed: Callable[[Api], object]


CHANGES = [
    Change(
        PLURAL,
        lambda api, _: apply_job(api, "second"),
        lambda api: api.read(BATCH, "jobs", "second-prepare-1"),
    ),
    Change(
        "jobs",
        lambda api, _: api.delete(BATCH, "jobs", "bot-prepare-1"),
        lambda api: api.read(BATCH, "jobs", "bot-prepare-2"),
    ),
    Change(
        "pods",
        lambda _, kubelet: kubelet.start("bot-prepare-1"),
        lambda api: api.status("bot")["phase"] == "Preparing",
    ),
]
each_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.kind)


@each_change
def test_a_watch_that_falls_silent_is_opened_anew_and_nothing_is_lost(
    change: Change, replica: Replica, api: Api, kubelet: Kubelet
) -> None:
    started(replica, **IMPATIENT)
    apply_job(api)
    wait_until(lambda: attempts(api))

    assert replica.proxy.silence_open_watches(to=watches(f"/{change.kind}$")) == 1
    change.make(api, kubelet)

    wait_until(lambda: change.is_noticed(api))
    wait_until(lambda: opened_watches(replica, f"/{change.kind}") > 1)
    assert not replica.has_ended()


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_names_the_watch_that_stays_silent_and_is_content_when_it_speaks_again(
    kind: str, replica: Replica
) -> None:
    started(replica, **IMPATIENT)
    assert replica.ask("healthz") == (200, "ok\n")
    replica.proxy.swallow(to=watches(f"/{kind}$"))

    wait_until(lambda: replica.ask("healthz")[0] == 503, 20)
    told = replica.ask("healthz")[1]
    assert told.startswith(f"nothing came through the watch of {kind} in all namespaces (")
    assert told.count("all namespaces") == 1

    replica.proxy.heal()
    wait_until(lambda: replica.ask("healthz")[0] == 200, 20)


def test_listings_do_not_make_a_dead_watch_look_alive(replica: Replica) -> None:
    started(replica, **IMPATIENT, FINETUNE_RESYNC_SECONDS="1")
    replica.proxy.swallow(to=watches("/pods$"))

    wait_until(lambda: replica.ask("healthz")[0] == 503, 20)

    assert sum(each.path == "/api/v1/pods" and not each.is_watch for each in replica.proxy.seen) > 5


def test_without_any_change_and_any_bookmark_a_healthy_watch_is_not_taken_for_a_dead_one(
    replica: Replica,
) -> None:
    started(replica, **IMPATIENT)

    assert replica.probe_answers(12) == {200}


def test_an_api_server_that_is_away_is_no_reason_to_restart(replica: Replica, api: Api) -> None:
    started(replica, **IMPATIENT, FINETUNE_LEASE_SECONDS="3")
    replica.proxy.swallow(to=watches())
    replica.proxy.reset(to=requests(), times=10_000)
    replica.proxy.reset(to=watches(), times=10_000)

    assert replica.probe_answers(12) == {200}

    replica.proxy.heal()
    apply_job(api)
    job_is_there(api, "bot-prepare-1")


def test_watches_whose_version_is_too_old_begin_anew(replica: Replica, api: Api, kubelet: Kubelet) -> None:
    started(replica)
    assert replica.proxy.expire_open_watches(to=watches()) == len(KINDS)

    apply_job(api)
    kubelet.start("bot-prepare-1")
    api.wait_for_status("bot", phase="Preparing")
    kubelet.fail("bot-prepare-1", 10, message={"reason": "DataError", "message": "no rows"})
    api.wait_for_status("bot", phase="Failed")
    assert not replica.has_ended()


@pytest.mark.long_fault
@each_change
def test_with_the_defaults_a_silent_watch_is_recovered_in_time(
    change: Change, replica: Replica, api: Api, kubelet: Kubelet
) -> None:
    started(replica)
    apply_job(api)
    wait_until(lambda: attempts(api))

    replica.proxy.silence_open_watches(to=watches(f"/{change.kind}$"))
    change.make(api, kubelet)

    wait_until(lambda: opened_watches(replica, f"/{change.kind}") > 1, RECOVERY_SECONDS)
    wait_until(lambda: change.is_noticed(api))


@pytest.mark.long_fault
def test_with_the_defaults_an_idle_operator_is_content_and_asks_for_little(replica: Replica) -> None:
    started(replica)
    before = len(replica.proxy.seen)

    assert replica.probe_answers(240) == {200}

    seen = replica.proxy.seen[before:]
    assert sum(not each.is_watch for each in seen) <= 0.5 * 240
    # Each of the three is ended by the API server every minute and opened anew.
    assert 3 * 3 <= sum(each.is_watch for each in seen) <= 3 * 5


@pytest.mark.long_fault
def test_with_the_defaults_the_probe_fails_where_watches_stay_silent(replica: Replica) -> None:
    started(replica)
    replica.proxy.swallow(to=watches("/pods$"))

    wait_until(lambda: replica.ask("healthz")[0] == 503, 170)
