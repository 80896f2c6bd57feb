"""Where the browser of these tests comes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devcluster import preflight
from devcluster.console import QUIET


def write_program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_browser_that_is_here_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    browser = write_program(tmp_path / "google-chrome")
    assert preflight.ensure_chromium(QUIET) == browser


def test_where_there_is_none_debians_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = tmp_path / "record"
    script = f'#!/bin/sh\necho "$*" >> {record}\n: > {tmp_path}/chromium\n/bin/chmod +x {tmp_path}/chromium\n'
    write_program(tmp_path / "apt-get", script)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "POLICY_FILE", tmp_path / "policy-rc.d")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert preflight.ensure_chromium(QUIET) == tmp_path / "chromium"
    assert record.read_text().splitlines()[-1].endswith("chromium")
