"""Every exit code that is a failure has a class, and codes below 20 are those that trying again cannot heal."""

from __future__ import annotations

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.reasons import FAILURE_CLASS_OF_EXIT_CODE


@pytest.mark.parametrize("code", [code for code in ExitCode if code is not ExitCode.DONE])
def test_codes_below_twenty_end_the_job(code: ExitCode) -> None:
    assert FAILURE_CLASS_OF_EXIT_CODE[code].ends_job == (code < 20)
