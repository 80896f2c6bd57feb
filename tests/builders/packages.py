"""A stage makes packages that it has no use for unimportable; a test's process goes on with other tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.unused_packages import _UNUSED


@contextmanager
def kept_packages() -> Iterator[None]:
    """Undo what leave_out_unused_packages did inside the block."""
    before = {name: sys.modules[name] for name in _UNUSED if name in sys.modules}
    yield
    for name in _UNUSED:
        sys.modules.pop(name, None)
    sys.modules.update(before)
