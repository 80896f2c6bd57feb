"""Nothing of a pod outlives its launcher, also where the launcher died while the process was starting."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = "import sys; from finetune_trainer.parent_death import die_with_launcher; die_with_launcher({}); print('alive')"


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        pytest.param(str(os.getpid()), "alive\n", id="the launcher lives"),
        pytest.param("None", "alive\n", id="started by hand"),
        pytest.param("2", "", id="somebody else has inherited it"),
    ],
)
def test_it_goes_on_only_below_its_launcher(launcher: str, expected: str) -> None:
    result = subprocess.run([sys.executable, "-c", CODE.format(launcher)], capture_output=True, text=True)
    assert result.stdout == expected
    assert (result.returncode == 0) is bool(expected)
