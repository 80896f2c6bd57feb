"""What is refused before anything is changed on the machine."""

import os
from pathlib import Path

import pytest

from devcluster import preflight
from devcluster.console import QUIET
from devcluster.errors import DevClusterError


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param("go1.24", (1, 24), id="a release"),
        pytest.param("go1.26.8", (1, 26), id="a patch release"),
        pytest.param("go1.9", (1, 9), id="numbers are not compared as text"),
        pytest.param("devel go1.27-abcdef", None, id="a development version"),
    ],
)
def test_go_versions_are_read(answer: str, expected: tuple[int, int] | None) -> None:
    assert preflight.parse_go_version(answer) == expected


def write_go(folder: Path, version: str) -> None:
    (folder / "go").write_text(f"#!/bin/sh\necho {version}\n")
    (folder / "go").chmod(0o755)


def test_a_missing_go_is_named_with_what_it_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DevClusterError, match=r"etcd has to be built, and there is no Go on PATH. Install Go"
    ):
        preflight.check_go("etcd")


def test_an_old_go_is_refused_and_a_recent_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write_go(tmp_path, "go1.22.1")
    with pytest.raises(DevClusterError, match=r"Go 1\.24 or newer, found go1\.22\.1"):
        preflight.check_go("etcd")
    write_go(tmp_path, "go1.24.0")
    preflight.check_go("etcd")


def test_a_full_disk_is_refused_with_the_figures(tmp_path: Path) -> None:
    preflight.check_free_disk(tmp_path / "not/yet/there", 0, "a cluster")
    with pytest.raises(DevClusterError, match=r"a cluster needs 1000000 GiB .* has \d+\.\d GiB\. Free some"):
        preflight.check_free_disk(tmp_path / "not/yet/there", 1_000_000, "a cluster")


def test_a_user_without_root_is_told_what_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DevClusterError, match=r"needs root.*--control-plane-only"):
        preflight.check_root("a full cluster")


def test_missing_packages_are_named_where_they_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    packages = {"no-such-program-1": "package-b", "no-such-program-2": "package-a", "sh": "dash"}
    assert preflight.missing_packages(packages) == ["package-a", "package-b"]
    with pytest.raises(DevClusterError, match=r"missing .*: package-a, package-b. Install them"):
        preflight.ensure_packages(packages, QUIET)


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    preflight.ensure_packages({"sh": "dash"}, QUIET)
