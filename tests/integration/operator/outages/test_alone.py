"""Only the holder of the Lease acts: others wait, take over when it dies, and one that lost it writes nothing more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from devcluster import ControlPlane
from finetune_operator.lease import EXIT_LEASE_LOST
from tests.integration.operator.api_client import BATCH, Api, wait_until
from tests.integration.operator.kubelet import job_is_there
from tests.integration.operator.outages.replica import Replica
from tests.integration.operator.steps import apply_job, attempts, child_jobs
from tests.stand_ins.api_proxy import requests

TAKEOVER_SECONDS = 15
SHORT_LEASE = {"FINETUNE_LEASE_SECONDS": "3"}
MakeReplica = Callable[[str], Replica]


def writes(replica: Replica) -> list[str]:
    """What it asked to be changed, but for its Lease."""
    return [
        f"{each.method} {each.path}"
        for each in replica.proxy.seen
        if each.method != "GET" and "/leases/" not in each.path
    ]


def test_a_second_one_waits_alive_not_ready_and_changes_nothing(make_replica: MakeReplica, api: Api) -> None:
    first, second = make_replica("pod-a"), make_replica("pod-b")
    first.start()
    second.spawn()

    apply_job(api)
    job_is_there(api, "bot-prepare-1")

    wait_until(lambda: "held by pod-a_" in second.ask("readyz")[1])
    assert second.ask("readyz")[0] == 503
    assert second.ask("healthz")[0] == 200
    assert writes(second) == []
    assert not any(each.is_watch for each in second.proxy.seen)


def test_a_paused_holder_is_replaced_and_ends_before_it_writes(
    make_replica: MakeReplica, api: Api, site: ControlPlane
) -> None:
    first, second = make_replica("pod-a"), make_replica("pod-b")
    first.start()
    second.spawn()
    names = [f"job-{number}" for number in range(20)]

    first.pause()
    paused_at = datetime.now(UTC).isoformat()
    for name in names:
        apply_job(api, name)
    wait_until(lambda: len(api.list_objects(BATCH, "jobs")) == len(names), TAKEOVER_SECONDS)
    written = len(writes(first))
    first.wake()

    assert first.wait_for_end(10) == EXIT_LEASE_LOST
    assert "ends before it writes anything more" in first.log.read_text()
    assert len(writes(first)) == written
    assert first.audited_writes(site.audit_log, paused_at) == []
    wait_until(lambda: all(attempts(api, name) for name in names))
    assert child_jobs(api) == sorted(f"{name}-prepare-1" for name in names)


def test_a_pause_that_nobody_else_used_is_none(replica: Replica, api: Api) -> None:
    """Its Lease has run out, but nobody else has taken it: it renews it before it writes, and goes on."""
    replica.start(**SHORT_LEASE)
    replica.pause()
    apply_job(api)
    assert not wait_for_nothing(replica, 4)
    replica.wake()

    job_is_there(api, "bot-prepare-1")
    assert not replica.has_ended()


def wait_for_nothing(replica: Replica, seconds: float) -> bool:
    """Let time go by; whether it answered meanwhile."""
    return replica.ask("healthz", timeout=seconds)[0] != 0


def test_a_dead_holder_is_replaced(make_replica: MakeReplica, api: Api) -> None:
    first, second = make_replica("pod-a"), make_replica("pod-b")
    first.start(**SHORT_LEASE)
    second.spawn(**SHORT_LEASE)

    first.die()
    apply_job(api)

    job_is_there(api, "bot-prepare-1")
    second.wait_until_ready()


def test_a_container_that_is_restarted_in_its_pod_does_not_wait_for_its_own_past(
    replica: Replica, api: Api
) -> None:
    replica.start(FINETUNE_LEASE_SECONDS="600")
    replica.die()

    replica.start(FINETUNE_LEASE_SECONDS="600")

    apply_job(api)
    job_is_there(api, "bot-prepare-1")


def test_one_that_ends_in_order_hands_over_at_once(make_replica: MakeReplica, api: Api) -> None:
    first, second = make_replica("pod-a"), make_replica("pod-b")
    first.start(FINETUNE_LEASE_SECONDS="12")
    second.spawn(FINETUNE_LEASE_SECONDS="12")

    assert first.stop() == 0

    # A look every three seconds, not the twelve after which a dead one's would be free.
    second.wait_until_ready(8)


def test_one_that_waits_ends_when_it_is_told_to(make_replica: MakeReplica) -> None:
    first, second = make_replica("pod-a"), make_replica("pod-b")
    first.start()
    second.spawn()

    assert second.stop() == 0
    assert first.is_ready()


def test_a_reconcile_that_runs_is_finished_before_the_end(replica: Replica, api: Api) -> None:
    replica.start()
    posted = replica.proxy.delay(2, to=requests("POST", "/jobs"))
    apply_job(api)
    wait_until(lambda: posted.happened)

    replica.tell_to_end()

    assert replica.wait_for_end(10) == 0
    assert job_is_there(api, "bot-prepare-1")
    assert attempts(api)


def test_a_request_that_hangs_does_not_hold_up_the_end(replica: Replica, api: Api) -> None:
    replica.start()
    posted = replica.proxy.delay(120, to=requests("POST", "/jobs"))
    apply_job(api)
    wait_until(lambda: posted.happened)

    replica.tell_to_end()

    assert replica.wait_for_end(10) == 0
    assert "did not end within" in replica.log.read_text()


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "carried out but unanswered"])
def test_a_renewal_that_goes_wrong_costs_nothing(lost: bool, replica: Replica, api: Api) -> None:
    replica.start(**SHORT_LEASE)
    renewals = requests("PUT", "/leases/")
    fault = (
        replica.proxy.reset(to=renewals, carried_out=True)
        if lost
        else replica.proxy.answer(503, to=renewals, times=1)
    )
    wait_until(lambda: fault.happened)
    apply_job(api)

    job_is_there(api, "bot-prepare-1")
    assert not replica.has_ended()


def test_a_lease_that_was_taken_by_force_ends_its_holder(replica: Replica) -> None:
    """As the chart's uninstall hook takes it."""
    replica.start(**SHORT_LEASE)
    spec = {"holderIdentity": "uninstall", "leaseDurationSeconds": 600}
    replica.home.patch("apis/coordination.k8s.io/v1", "leases", "finetune-operator", {"spec": spec})

    assert replica.wait_for_end(10) == EXIT_LEASE_LOST
