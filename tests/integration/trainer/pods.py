"""One pod's spool with an uploader in a thread, and orders as the pod's first rank places them."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from finetune_api.layout import RunLayout
from finetune_trainer.spool import SaveOrder, Spool, UploadReport, UploadState
from finetune_trainer.storage import ObjectStore
from finetune_trainer.uploader import Uploader
from tests.builders.checkpoints import files_in, make_facts, make_order, write_state
from tests.builders.deadlines import wait_until

PAUSE_SECONDS = 0.02


class Pod:
    """As a context manager its uploader runs; at the end what stands is withdrawn."""

    def __init__(
        self, store: ObjectStore, layout: RunLayout, folder: Path, *, node: int = 0, nodes: int = 1
    ) -> None:
        (folder / "spool").mkdir(parents=True, exist_ok=True)
        self._store, self._layout, self._folder = store, layout, folder
        self.spool = Spool(folder / "spool")
        self.state = folder / "state"
        self.prefix = ""
        """Of the names that its files have in the checkpoint."""
        self.pauses: list[int] = []
        """After which of an order's attempts the uploader has waited."""
        self._node, self._nodes = node, nodes
        self._number = 0
        uploader = Uploader(store, layout, self.spool, pause_seconds=self._pause)
        self.thread = threading.Thread(target=uploader.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.spool.withdraw()
        self.spool.close()
        self.thread.join(30)
        assert error is not None or not self.thread.is_alive(), "the uploader does not end"

    def run_to_the_end(self) -> None:
        """Let the uploader save what was handed over, and end."""
        self.spool.close()
        self.thread.start()
        self.thread.join(40)
        assert not self.thread.is_alive(), "the uploader does not end"

    def again(self) -> Pod:
        """Another uploader in the same pod, as after the first one's death."""
        (self._folder / "spool" / "closed").unlink(missing_ok=True)
        pod = Pod(self._store, self._layout, self._folder, node=self._node, nodes=self._nodes)
        pod._number = self._number
        return pod

    def hand_over(self, step: int, *, incarnation: int = 1, **changes: Any) -> SaveOrder:
        """Fill the buffers with a step's state and have it saved; `changes` are fields of SaveOrder or of the facts."""
        self._number += 1
        facts = {name: changes.pop(name) for name in ("eval_loss", "loss") if name in changes}
        place = {"node": self._node, "nodes": self._nodes}
        fields = {"number": self._number, **place, **changes}
        files = files_in(write_state(self.state, step))
        named = {f"{self.prefix}{name}": path for name, path in files.items()}
        order = make_order(make_facts(step, incarnation, **facts), named, **fields)
        self.spool.place(order)
        return order

    def replace(self, step: int, **changes: Any) -> SaveOrder:
        """Save a newer state instead, in the order in which ranks do it."""
        self.spool.withdraw()
        return self.hand_over(step, **changes)

    def wait_for(self, state: UploadState, order: SaveOrder) -> UploadReport:
        """Wait until an order has come there."""

        def has_come() -> bool:
            report = self.spool.report()
            return (report.order, report.state) == (order.number, state)

        wait_until(has_come, f"order {order.number} is {state}", seconds=40)
        return self.spool.report()

    def save(self, step: int, **changes: Any) -> UploadReport:
        """Hand a state over and wait until it is committed."""
        return self.wait_for(UploadState.IDLE, self.hand_over(step, **changes))

    def forget_state(self) -> None:
        """Remove the buffers."""
        shutil.rmtree(self.state)

    def _pause(self, attempt: int) -> float:
        self.pauses.append(attempt)
        return PAUSE_SECONDS
