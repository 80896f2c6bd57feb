"""The Lease: who may take it and when, how long its holder trusts it, and what becomes of one who lost it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from finetune_operator.cluster import Conflict, NotFound, Unavailable
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.lease import LONGEST_SILENCE_SECONDS, Lease, LeaseTerms, claim_lease, make_identity
from finetune_operator.times import parse_time

NOW = parse_time("2026-01-31T12:00:00Z")
EMPTY: JsonObject = {"metadata": {"namespace": "system", "name": "finetune-operator", "resourceVersion": "1"}}
AWAY = Unavailable("the API server cannot be reached")


class Ended(Exception):
    """The process has ended itself."""


class Enough(Exception):
    """The test has seen enough of a loop that never ends."""


class Time:
    """A clock and its pauses, which take no time. `meanwhile` is called with the time at the end of each pause."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[float], None] = lambda _: None

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)
        self.meanwhile(self.now)

    def stop_at(self, at: float) -> Callable[[float], None]:
        """Something to do meanwhile: nothing, until it is enough."""

        def meanwhile(now: float) -> None:
            if now >= at:
                raise Enough

        return meanwhile


class Leases:
    """One Lease, with the API server's rule about resource versions."""

    def __init__(self, stored: JsonObject = EMPTY) -> None:
        self.stored = deepcopy(stored)
        self.error: Exception | None = None
        self.loses_answers = False
        self.updates = 0

    async def read_lease(self, namespace: str, name: str, timeout_seconds: float = 0) -> JsonObject:
        if self.error is not None:
            raise self.error
        return deepcopy(self.stored)

    async def update_lease(self, manifest: JsonObject, timeout_seconds: float = 0) -> JsonObject:
        if self.error is not None:
            raise self.error
        if manifest["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
            raise Conflict("the Lease has changed", status=409)
        self.updates += 1
        self.write(manifest["spec"])
        if self.loses_answers:
            raise AWAY
        return deepcopy(self.stored)

    def write(self, spec: dict[str, Any]) -> None:
        """Write as anybody may."""
        version = str(int(self.stored["metadata"]["resourceVersion"]) + 1)
        metadata = {**self.stored["metadata"], "resourceVersion": version}
        self.stored = {"metadata": metadata, "spec": deepcopy(spec)}

    @property
    def holder(self) -> str:
        """Who holds it."""
        return str(self.stored["spec"].get("holderIdentity", ""))


def held_by(holder: str, duration: int = 10) -> JsonObject:
    return claim_lease(EMPTY, holder, duration, NOW)


def make_lease(leases: Leases, time: Time, pod_name: str = "pod-a") -> Lease:
    def end() -> None:
        raise Ended

    return Lease(
        leases,
        "system",
        "finetune-operator",
        LeaseTerms(10),
        pod_name,
        clock=time,
        sleep=time.sleep,
        end_process=end,
    )


@pytest.fixture
def time() -> Time:
    return Time()


# --- taking it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "waits"),
    [
        pytest.param(EMPTY, False, id="one that nobody ever held is taken at once"),
        pytest.param({**EMPTY, "spec": {"leaseDurationSeconds": 10}}, False, id="one given back, too"),
        pytest.param(held_by("pod-a_123"), False, id="one of the dead process of the same pod, too"),
        pytest.param(held_by("pod-b_123"), True, id="that of another pod is waited for"),
        pytest.param(held_by("pod-a-b_123"), True, id="a pod whose name begins like ours is another one"),
    ],
)
async def test_it_is_taken_at_once_or_waited_for(found: JsonObject, waits: bool, time: Time) -> None:
    lease = make_lease(Leases(found), time)

    await lease.acquire()

    lease.check()
    assert (time.now - 1000 >= 10) is waits


@pytest.mark.parametrize("duration", [10, 600])
async def test_anothers_is_taken_when_it_did_not_change_for_the_duration_that_stands_in_it(
    duration: int, time: Time
) -> None:
    leases = Leases(held_by("pod-b_123", duration))

    await make_lease(leases, time).acquire()

    assert duration <= time.now - 1000 <= duration + 2.5
    assert leases.holder.startswith("pod-a_")
    assert leases.stored["spec"]["leaseTransitions"] == 2


async def test_one_that_changes_is_never_taken_whatever_time_stands_in_it(time: Time) -> None:
    leases = Leases(held_by("pod-b_123"))
    lease = make_lease(leases, time)

    def renew(now: float) -> None:
        # The holder's clock is years behind; only that something changes counts.
        leases.write({**leases.stored["spec"], "renewTime": f"1999-12-31T23:59:{now % 60:09.6f}Z"})
        time.stop_at(1300)(now)

    time.meanwhile = renew
    with pytest.raises(Enough):
        await lease.acquire()

    assert (lease.holder, leases.updates) == ("pod-b_123", 0)
    with pytest.raises(Unavailable):
        lease.check()


async def test_of_two_that_want_it_one_gets_it_and_keeps_it(time: Time) -> None:
    leases = Leases(held_by("pod-c_123"))
    time.meanwhile = time.stop_at(1300)

    async def take_and_keep(lease: Lease) -> None:
        await lease.acquire()
        await lease.keep()

    both = [take_and_keep(make_lease(leases, time, pod_name)) for pod_name in ("pod-a", "pod-b")]
    results = await asyncio.gather(*both, return_exceptions=True)

    assert {type(result) for result in results} == {Enough}
    assert leases.stored["spec"]["leaseTransitions"] == 2


async def test_without_a_pods_name_nobody_is_taken_for_our_own_past(time: Time) -> None:
    past = make_identity("")

    await make_lease(Leases(held_by(past)), time, pod_name="").acquire()

    assert time.now - 1000 >= 10


@pytest.mark.parametrize("error", [AWAY, NotFound("no such Lease", status=404)])
async def test_one_that_cannot_be_read_is_asked_for_again(error: Exception, time: Time) -> None:
    leases = Leases()
    leases.error = error

    def come_back(now: float) -> None:
        if now > 1030:
            leases.error = None

    time.meanwhile = come_back
    await make_lease(leases, time).acquire()

    assert leases.holder.startswith("pod-a_")


async def test_a_taking_whose_answer_is_lost_is_found_out(time: Time) -> None:
    leases = Leases()
    leases.loses_answers = True

    def mend(_: float) -> None:
        leases.loses_answers = False

    time.meanwhile = mend
    await make_lease(leases, time, pod_name="").acquire()

    assert time.now - 1000 < 10


# --- keeping it ------------------------------------------------------------------------------------------------


async def keep(lease: Lease, time: Time, seconds: float) -> None:
    """Let it be kept for some time."""
    also = time.meanwhile

    def meanwhile(now: float) -> None:
        also(now)
        stop(now)

    stop = time.stop_at(time.now + seconds)
    time.meanwhile = meanwhile
    with pytest.raises(Enough):
        await lease.keep()
    time.meanwhile = also


async def test_it_is_trusted_as_long_as_it_is_renewed_and_costs_few_requests(time: Time) -> None:
    leases = Leases()
    lease = make_lease(leases, time)
    await lease.acquire()
    time.meanwhile = lambda _: lease.check()

    await keep(lease, time, 600)

    assert leases.updates <= 600 * 0.3
    assert lease.answering_since == 1000


async def test_nothing_is_written_when_no_renewal_succeeds_and_again_when_one_does(time: Time) -> None:
    leases = Leases()
    lease = make_lease(leases, time)
    contacts: list[float] = []
    await lease.acquire()
    lease.on_contact = lambda: contacts.append(time.now)
    leases.error = AWAY

    await keep(lease, time, 9)
    with pytest.raises(Unavailable, match="could not be renewed"):
        lease.check()
    assert lease.answering_since is None

    leases.error = None
    await keep(lease, time, 9)
    lease.check()
    assert [lease.answering_since] == contacts


async def test_the_holder_stops_before_another_one_may_begin(time: Time) -> None:
    leases = Leases()
    holder = make_lease(leases, time, "pod-a")
    await holder.acquire()
    other = make_lease(leases, time, "pod-b")

    def check(_: float) -> None:
        if leases.holder.startswith("pod-a_"):
            return
        with pytest.raises(Unavailable):
            holder.check()

    time.meanwhile = check
    await other.acquire()

    with pytest.raises(Unavailable):
        holder.check()


async def test_one_that_was_paused_too_long_ends_without_having_written(time: Time) -> None:
    leases = Leases()
    lease = make_lease(leases, time, "pod-a")
    await lease.acquire()
    time.now += 30
    await make_lease(leases, time, "pod-b").acquire()

    with pytest.raises(Unavailable):
        lease.check()
    with pytest.raises(Ended):
        await lease.keep()
    assert leases.holder.startswith("pod-b_")


async def test_a_renewal_whose_answer_is_lost_is_found_out(time: Time) -> None:
    leases = Leases()
    lease = make_lease(leases, time)
    await lease.acquire()
    leases.loses_answers = True

    def mend(now: float) -> None:
        leases.loses_answers = now < 1004

    time.meanwhile = mend
    await keep(lease, time, 20)

    lease.check()


async def test_somebody_who_only_touches_its_metadata_takes_nothing(time: Time) -> None:
    leases = Leases()
    lease = make_lease(leases, time)
    await lease.acquire()
    leases.write(leases.stored["spec"])

    await keep(lease, time, 20)

    lease.check()


async def test_a_process_that_never_reaches_the_api_server_makes_room_for_a_fresh_one(time: Time) -> None:
    leases = Leases()
    lease = make_lease(leases, time)
    await lease.acquire()
    leases.error = AWAY

    with pytest.raises(Ended):
        await lease.keep()

    assert LONGEST_SILENCE_SECONDS < time.now - 1000 < LONGEST_SILENCE_SECONDS + 15


# --- giving it back --------------------------------------------------------------------------------------------


async def test_one_given_back_is_free_at_once_and_its_last_holder_writes_no_more(time: Time) -> None:
    leases = Leases()
    lease = make_lease(leases, time, "pod-a")
    await lease.acquire()

    await lease.release()

    with pytest.raises(Unavailable):
        lease.check()
    before = time.now
    await make_lease(leases, time, "pod-b").acquire()
    assert time.now == before


@pytest.mark.parametrize("error", [AWAY, Conflict("taken by another one", status=409)])
async def test_one_that_cannot_be_given_back_is_left(error: Exception, time: Time) -> None:
    leases = Leases()
    lease = make_lease(leases, time)
    await lease.acquire()
    leases.error = error

    await lease.release()

    with pytest.raises(Unavailable):
        lease.check()


async def test_one_that_was_never_held_is_not_given_back(time: Time) -> None:
    leases = Leases(held_by("pod-b_123"))

    await make_lease(leases, time).release()

    assert leases.holder == "pod-b_123"


def test_two_processes_of_one_pod_have_two_names() -> None:
    assert make_identity("pod-a") != make_identity("pod-a")
