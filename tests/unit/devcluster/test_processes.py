"""Starting, recognising and ending real processes."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster.console import QUIET
from devcluster.errors import DevClusterError
from devcluster.processes import Component, ProcessTable, find_processes, is_alive, terminate
from devcluster.state import StateDirectory

SLEEPER = Component("sleeper", ("sleep", "1000"), lambda: True, ready_timeout_seconds=5)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ProcessTable]:
    state = StateDirectory(tmp_path)
    state.ensure()
    table = ProcessTable(state)
    yield table
    for name in table.names():
        table.stop(name)


def pid_of(table: ProcessTable, name: str) -> int:
    record = table.load(name)
    assert record is not None
    return record.pid


def python(table: ProcessTable, name: str, code: str) -> Component:
    """A component that is ready once it has written to its log."""
    log = table.log_path(name)
    return Component(name, (sys.executable, "-uc", code), lambda: log.exists() and bool(log.read_text()))


def test_a_healthy_component_is_left_alone(table: ProcessTable) -> None:
    table.ensure_all_running([SLEEPER], QUIET)
    first = pid_of(table, "sleeper")
    table.ensure_all_running([SLEEPER], QUIET)
    assert pid_of(table, "sleeper") == first


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"command": ("sleep", "999")}, id="another command line"),
        pytest.param({"environment": {"KEY": "value"}}, id="another environment"),
    ],
)
def test_changed_settings_mean_a_restart(table: ProcessTable, change: dict[str, object]) -> None:
    table.ensure_all_running([SLEEPER], QUIET)
    first = table.load("sleeper")
    table.ensure_all_running([replace(SLEEPER, **change)], QUIET)  # type: ignore[arg-type]
    assert first is not None
    assert not is_alive(first)
    assert table.is_running("sleeper")


def test_a_changed_configuration_file_means_a_restart(table: ProcessTable, tmp_path: Path) -> None:
    config = tmp_path / "settings"
    config.write_text("one")
    component = replace(SLEEPER, inputs=(config,))
    table.ensure_all_running([component], QUIET)
    assert table.is_healthy(component)
    config.write_text("two")
    assert not table.is_healthy(component)


def test_a_dead_component_is_started_again(table: ProcessTable) -> None:
    table.ensure_all_running([SLEEPER], QUIET)
    os.kill(pid_of(table, "sleeper"), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while table.is_running("sleeper"):
        assert time.monotonic() < deadline
    table.ensure_all_running([SLEEPER], QUIET)
    assert table.is_running("sleeper")


def test_a_recycled_pid_is_not_taken_for_ours(table: ProcessTable) -> None:
    table.ensure_all_running([SLEEPER], QUIET)
    record = table.load("sleeper")
    assert record is not None
    assert is_alive(record)
    assert not is_alive(replace(record, start_ticks=record.start_ticks - 1))


def test_a_program_that_ends_at_once_is_an_error_with_its_last_words(table: ProcessTable) -> None:
    component = Component("bad", (sys.executable, "-c", "raise SystemExit('port 1 is taken')"), lambda: False)
    with pytest.raises(DevClusterError, match=r"bad ended before it was ready[\s\S]*port 1 is taken"):
        table.ensure_all_running([component], QUIET)


def test_a_program_that_never_answers_is_an_error(table: ProcessTable) -> None:
    with pytest.raises(DevClusterError, match="was not ready within 0 s"):
        table.ensure_all_running([replace(SLEEPER, is_ready=lambda: False, ready_timeout_seconds=0.2)], QUIET)


def test_a_program_that_ignores_the_polite_signal_is_killed(table: ProcessTable) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready'); time.sleep(1000)"
    table.ensure_all_running([python(table, "stubborn", code)], QUIET)
    record = table.load("stubborn")
    table.stop("stubborn", grace_seconds=0.2)
    assert record is not None
    assert not is_alive(record)
    assert table.names() == []


def test_processes_are_found_by_program_and_argument_not_by_argument_alone(table: ProcessTable) -> None:
    marker = f"0.{os.getpid()}{time.monotonic_ns()}"
    table.ensure_all_running([replace(SLEEPER, command=("sleep", "1000", marker))], QUIET)
    own = pid_of(table, "sleeper")
    assert find_processes(frozenset({"sleep"}), marker) == [own]
    assert find_processes(frozenset({"etcd"}), marker) == []
    terminate([own], grace_seconds=5)
    assert find_processes(frozenset({"sleep"}), marker) == []
