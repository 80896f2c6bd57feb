"""What a state folder remembers, and where a node's data lies."""

import stat
from pathlib import Path

import pytest

from devcluster.errors import DevClusterError
from devcluster.state import (
    LONGEST_SOCKET_PATH,
    Description,
    StateDirectory,
    choose_node_root,
    ensure_mode,
    load_description,
    load_ports,
    save_description,
    write_file,
)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "cluster")
    state.ensure()
    return state


def test_a_node_lies_in_the_state_folder_where_its_socket_paths_fit() -> None:
    state = StateDirectory(Path("/home/me/operator/.devcluster"))
    assert choose_node_root(state, "node-1") == state.root / "node-1"


def test_a_node_lies_in_var_lib_where_its_socket_paths_would_be_too_long() -> None:
    state = StateDirectory(Path("/home") / ("deep" * 20) / ".devcluster")
    root = choose_node_root(state, "node-1")
    assert root == Path("/var/lib/finetune-devcluster") / state.identity / "node-1"
    assert len(str(root / "kubelet/pod-resources/kubelet.sock")) <= LONGEST_SOCKET_PATH


def test_a_path_is_measured_in_bytes_not_in_characters() -> None:
    fits = "/" + "a" * 55
    assert choose_node_root(StateDirectory(Path(fits)), "node-1").is_relative_to(fits)
    assert not choose_node_root(StateDirectory(Path("/" + "机" * 55)), "node-1").is_relative_to("/机")


def test_ports_stay_the_same_and_new_names_get_new_ones(state: StateDirectory) -> None:
    first = load_ports(state, ["a", "b"])
    second = load_ports(state, ["b", "c", "a"])
    assert {name: second[name] for name in first} == first
    assert len(set(second.values())) == 3


def test_a_description_is_read_back(state: StateDirectory) -> None:
    assert load_description(state) is None
    save_description(state, Description("full", nodes=2, gpus=4))
    assert load_description(state) == Description("full", nodes=2, gpus=4)


def test_a_command_that_does_not_fit_the_cluster_is_refused(state: StateDirectory) -> None:
    with pytest.raises(DevClusterError, match=r"there is no cluster in .*start one"):
        ensure_mode(state, "full", must_exist=True)
    save_description(state, Description("control-plane"))
    ensure_mode(state, "control-plane")
    with pytest.raises(DevClusterError, match="'control-plane', and this needs 'full'"):
        ensure_mode(state, "full")


def test_the_state_folder_is_private_and_ignored_by_git(state: StateDirectory) -> None:
    assert stat.S_IMODE(state.root.stat().st_mode) == 0o700
    assert (state.root / ".gitignore").read_text() == "*\n"


def test_files_are_written_for_their_owner_only(tmp_path: Path) -> None:
    path = write_file(tmp_path / "folder/file", "secret")
    assert path.read_text() == "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["file"]
