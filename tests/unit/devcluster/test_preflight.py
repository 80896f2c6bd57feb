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


@pytest.fixture
def apt_get(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An apt-get that installs every package as a program of its name; the path of its record of what it was asked."""
    programs, record = tmp_path / "bin", tmp_path / "record"
    programs.mkdir()
    policy = tmp_path / "policy-rc.d"
    (programs / "apt-get").write_text(f"""#!/bin/sh
echo "$(test -x {policy} && echo held) $*" >> {record}
test -e {tmp_path}/offline && echo "Temporary failure resolving 'mirror'" >&2 && exit 100
for word; do case $word in package-*) touch {programs}/$word; chmod +x {programs}/$word;; esac; done
""")
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "POLICY_FILE", policy)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return record


def test_only_what_is_missing_is_installed_once_and_no_service_of_it_starts(apt_get: Path) -> None:
    packages = {"package-a": "package-a", "package-b": "package-b", "sh": "dash"}
    preflight.ensure_packages(packages, QUIET)
    preflight.ensure_packages(packages, QUIET)

    update, install = apt_get.read_text().splitlines()
    assert (update.split()[0], update.split()[-1]) == ("held", "update")
    assert install.split()[0] == "held"
    assert install.split()[-2:] == ["package-a", "package-b"]
    assert not preflight.POLICY_FILE.exists()


def test_an_installation_without_a_network_says_where_to_prepare(apt_get: Path) -> None:
    apt_get.with_name("offline").touch()
    with pytest.raises(DevClusterError, match=r"(?s)Temporary failure.*`python -m devcluster prepare` where"):
        preflight.ensure_packages({"package-a": "package-a"}, QUIET)
    assert not preflight.POLICY_FILE.exists()
