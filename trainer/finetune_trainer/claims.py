"""Which incarnation of a run may write: each start of its pods claims the next number, and the newest is the writer.

No conditional write is needed, which not every store has. Who claims a number writes an object of its own below it and
then lists: whoever finds another one there, or a higher number, goes higher. Of two that claim the same number, the one
that wrote last sees both, so at most one holds it; a store has to list what was written, no more.

    claims/00003/<token>              a claim
    claims/00003/from-00000400        the step that this incarnation went on from

A pod that was frozen between looking and writing may still commit, late. Its successor has written down where it went
on from: what an older incarnation committed beyond that step is nobody's past, and readers pass it over. Torch-free.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune_api.layout import RunLayout
from finetune_trainer.errors import Superseded
from finetune_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)

_START_PREFIX = "from-"
_LONGEST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Claims:
    """All claims of a run: tokens by number, and the steps that incarnations went on from."""

    tokens: Mapping[int, frozenset[str]]
    starts: Mapping[int, int]

    @property
    def newest(self) -> int:
        """The writer's number; 0 where nobody has claimed the run."""
        return max(self.tokens, default=0)

    def successor_start(self, incarnation: int) -> int | None:
        """The earliest step that a newer incarnation went on from; None where none has."""
        return min((step for number, step in self.starts.items() if number > incarnation), default=None)


def load_claims(store: ObjectStore, layout: RunLayout) -> Claims:
    """Read all claims: one listing."""
    tokens: dict[int, set[str]] = {}
    starts: dict[int, int] = {}
    for info in store.list_objects(layout.claims_uri):
        number, _, rest = info.name.partition("/")
        if not (number.isdecimal() and rest):
            continue
        if rest.startswith(_START_PREFIX):
            # One that could not use what it had begun from went further back.
            step = int(rest.removeprefix(_START_PREFIX))
            starts[int(number)] = min(step, starts.get(int(number), step))
        else:
            tokens.setdefault(int(number), set()).add(rest)
    return Claims({number: frozenset(found) for number, found in tokens.items()}, starts)


def claim_incarnation(
    store: ObjectStore, layout: RunLayout, *, pause: Callable[[float], None] = time.sleep
) -> int:
    """Become the run's only writer and return the number, from 1."""
    token = uuid.uuid4().hex
    number = load_claims(store, layout).newest + 1
    while True:
        store.write_bytes(layout.claim_uri(number, token), b"")
        claims = load_claims(store, layout)
        if claims.newest == number and claims.tokens[number] == {token}:
            logger.info("claimed run %s as incarnation %d", layout.run_id, number)
            return number
        # Another moment than the competitor's, who goes higher too.
        pause(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311
        number = load_claims(store, layout).newest + 1


def note_start(store: ObjectStore, layout: RunLayout, incarnation: int, step: int) -> None:
    """Write down the step that this incarnation goes on from, before it commits anything."""
    store.write_bytes(layout.claim_uri(incarnation, f"{_START_PREFIX}{step:08d}"), b"")


def ensure_not_superseded(store: ObjectStore, layout: RunLayout, incarnation: int) -> None:
    """Raise Superseded if a newer incarnation has claimed the run."""
    newest = load_claims(store, layout).newest
    if newest > incarnation:
        raise Superseded(
            f"Incarnation {newest} has taken over run {layout.run_id}; this pod is incarnation {incarnation} and "
            "writes nothing more. Nothing needs to be done."
        )
