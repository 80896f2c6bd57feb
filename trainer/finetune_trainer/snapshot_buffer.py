"""Where a rank's share of the state is copied to while training waits: the file that is uploaded, mapped into memory.

The launcher makes memory files before its ranks start, which the uploader has open too, so nothing is copied or written
twice. Where the pod's memory has no room for them, the buffer is a file on the pod's disk: slower, and said.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.state_files import Fragment, plan_state_file
from finetune_trainer.tensor_files import TensorFilePlan, tensor_bytes

logger = logging.getLogger(__name__)

_MADV_POPULATE_WRITE = 23  # Source: linux, include/uapi/asm-generic/mman-common.h; from 5.14 on.


class SnapshotBuffer:
    """One file of a fixed layout, filled again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # A memory file that the launcher made, rather than one on the disk.
        self._is_memory = path.is_relative_to("/proc")
        self._layout: TensorFilePlan | None = None
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._populating: threading.Thread | None = None

    def lay_out(self, fragments: list[Fragment]) -> None:
        """Give the file its size and its header, and bring its pages in while training goes on. Raises OSError."""
        layout = plan_state_file(fragments)
        if self._layout is not None and layout.header == self._layout.header:
            return
        self._layout, self._bytes = layout, self._map(layout.size_bytes)
        self._bytes[: len(layout.header)] = torch.frombuffer(bytearray(layout.header), dtype=torch.uint8)
        self._populating = threading.Thread(target=_populate, args=(self._bytes,), daemon=True)
        self._populating.start()

    def fill(self, fragments: list[Fragment]) -> int:
        """Copy the share into the file, and return its size in bytes. Raises OSError where there is no room."""
        self.lay_out(fragments)
        assert self._layout is not None, "just laid out"
        if self._populating is not None:
            self._populating.join()
            self._populating = None
        live = {each.full_name: each.tensor for each in fragments}
        for plan, offset in self._layout.offsets():
            target = self._bytes[offset : offset + plan.size_bytes]
            # Types keep their alignment only if the header's length is a multiple of them, which it is of 8.
            target.copy_(tensor_bytes(live[plan.name]), non_blocking=True)
        _wait_for_devices(live)
        return self._layout.size_bytes

    def _map(self, size_bytes: int) -> torch.Tensor:
        """The file's bytes, uint8 [size]; what is written there stands in the file."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, size_bytes)
            if not self._is_memory:
                # Without it a full disk would be a bus error in the midst of a copy.
                os.posix_fallocate(descriptor, 0, size_bytes)
            mapped = torch.frombuffer(mmap.mmap(descriptor, size_bytes), dtype=torch.uint8)
        finally:
            os.close(descriptor)
        if torch.cuda.is_available():
            # Pinned, so that copies from the device run at the speed of the bus.
            runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            code = runtime.cudaHostRegister(mapped.data_ptr(), size_bytes, 0)
            if int(code) != 0:
                logger.info("the snapshot is not pinned (CUDA error %d): saving stalls for longer", code)
        return mapped


def _populate(mapped: torch.Tensor) -> None:
    """Bring pages in before the first copy; where the kernel cannot, the first copy does it."""
    libc = ctypes.CDLL(None)
    libc.madvise(ctypes.c_void_p(mapped.data_ptr()), ctypes.c_size_t(mapped.numel()), _MADV_POPULATE_WRITE)


def _wait_for_devices(tensors: dict[str, torch.Tensor]) -> None:
    for device in {each.device for each in tensors.values()}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
