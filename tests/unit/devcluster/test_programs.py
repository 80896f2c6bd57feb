"""Where a program is looked for, and when a build of it may be used again."""

from dataclasses import replace
from pathlib import Path

import pytest

from devcluster.errors import DevClusterError
from devcluster.programs import (
    PROGRAMS,
    TOOLS,
    cache_folder,
    cached_path,
    check_builds,
    find_program,
    is_version,
)

KUBELET = PROGRAMS["kubelet"]


def write_program(folder: Path, name: str, answer: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


def test_the_first_place_that_has_the_program_wins(tmp_path: Path) -> None:
    assets, path = tmp_path / "assets", tmp_path / "path"
    cached = tmp_path / "cache/kubelet"
    environment = {"KUBEBUILDER_ASSETS": str(assets), "PATH": str(path)}
    assert find_program(KUBELET, environment, cached) is None
    on_path = write_program(path, "kubelet", "Kubernetes v1.34.4")
    assert find_program(KUBELET, environment, cached) == on_path
    write_program(cached.parent, "kubelet")
    assert find_program(KUBELET, environment, cached) == cached
    in_assets = write_program(assets, "kubelet")
    assert find_program(KUBELET, environment, cached) == in_assets


def test_another_version_on_path_is_not_used(tmp_path: Path) -> None:
    write_program(tmp_path, "kubelet", "Kubernetes v1.34.5")
    assert find_program(KUBELET, {"PATH": str(tmp_path)}, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("program", "answer", "expected"),
    [
        pytest.param("kubectl", "Client Version: v1.34.4", True, id="kubectl"),
        pytest.param("kubectl", "Client Version: v1.34.40", False, id="a longer number is another version"),
        pytest.param("kubectl", "Client Version: v1.32.4-dispatcher", False, id="a distribution's own build"),
        pytest.param("etcd", "etcd Version: 3.6.8\nGit SHA: 1", True, id="etcd"),
        pytest.param("helm", "v3.22.0+g1234567", True, id="helm with its commit"),
        pytest.param("helm", "v4.3.1+g1234567", False, id="another helm"),
        pytest.param("coredns", "CoreDNS-1.15.0 linux/amd64, go1.26", True, id="a name joined by a dash"),
        pytest.param("kubeconform", "v0.8.0", True, id="the bare number"),
        pytest.param("rclone", "rclone v1.75.1\n- go/version: go1.26.8", True, id="rclone"),
        pytest.param("pause", "v1", False, id="pause is only ever our own"),
    ],
)
def test_versions_are_recognised_in_what_programs_answer(
    tmp_path: Path, program: str, answer: str, expected: bool
) -> None:
    path = write_program(tmp_path, program, answer)
    assert is_version(path, PROGRAMS[program]) is expected


def test_a_file_that_cannot_run_is_no_version_at_all(tmp_path: Path) -> None:
    (tmp_path / "kubelet").write_text("not a program")
    assert not is_version(tmp_path / "kubelet", KUBELET)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param(
            {"FINETUNE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a"), id="our own variable first"
        ),
        pytest.param({"XDG_CACHE_HOME": "/b"}, Path("/b/finetune-devcluster"), id="then the desktop's"),
        pytest.param({}, Path.home() / ".cache/finetune-devcluster", id="then the home folder"),
    ],
)
def test_built_programs_are_kept_outside_the_repository(environment: dict[str, str], expected: Path) -> None:
    assert cache_folder(environment) == expected


def test_a_cached_build_is_used_until_something_that_goes_into_it_changes(tmp_path: Path) -> None:
    tool = tmp_path / "kubernetes"
    tool.mkdir()
    for name in ("go.mod", "go.sum", "tools.go", "README.md"):
        (tool / name).write_text(name)
    first = cached_path(KUBELET, tmp_path, tmp_path)
    assert cached_path(KUBELET, tmp_path, tmp_path) == first
    (tool / "README.md").write_text("another text")
    assert cached_path(KUBELET, tmp_path, tmp_path) == first
    assert cached_path(replace(KUBELET, ldflags="-X a=b"), tmp_path, tmp_path) != first
    (tool / "go.sum").write_text("another sum")
    assert cached_path(KUBELET, tmp_path, tmp_path) != first


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
def test_every_program_is_pinned_at_the_version_it_is_recognised_by(program: object) -> None:
    entry = PROGRAMS[program.name]  # type: ignore[attr-defined]
    module = (TOOLS / entry.tool / "go.mod").read_text()
    assert entry.name == "pause" or f" v{entry.version.removeprefix('v')}\n" in module
    assert entry.name == "pause" or (TOOLS / entry.tool / "go.sum").exists()


def test_what_has_to_be_built_is_known_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("PATH", str(tmp_path))
    write_program(tmp_path / "assets", "etcd")
    assert check_builds(["etcd"]) == []
    with pytest.raises(DevClusterError, match="kubelet has to be built, and there is no Go on PATH"):
        check_builds(["etcd", "kubelet"])
    write_program(tmp_path, "go", "go1.26.0")
    assert check_builds(["etcd", "kubelet"]) == ["kubelet"]
