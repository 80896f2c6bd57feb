"""The command line: what it takes, and how it refuses."""

import re
from pathlib import Path

import pytest

from devcluster.__main__ import build_parser, main
from devcluster.cluster import open_cluster
from devcluster.console import QUIET
from devcluster.report import describe_cluster
from devcluster.state import Description, StateDirectory, save_description


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["kubeconfig"], "there is no cluster in .*start one", id="no kubeconfig yet"),
        pytest.param(["load-image", "x"], "there is no cluster in .*start one", id="no node to load into"),
        pytest.param(["logs", "etcd"], "no log of 'etcd'.*there are: none", id="no log yet"),
    ],
)
def test_a_command_without_its_cluster_is_refused_in_a_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--state-dir", str(tmp_path)]) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["up", "--gpus", "-1"], id="fewer than no GPUs"),
        pytest.param(["up", "--nodes", "3"], id="more nodes than there can be"),
        pytest.param(["program", "vim"], id="a program that is none of ours"),
        pytest.param([], id="no command"),
    ],
)
def test_impossible_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        build_parser().parse_args(arguments)
    assert refusal.value.code == 2


def test_down_where_nothing_runs_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--state-dir", str(tmp_path / "none")]) == 0
    assert "nothing runs" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_what_up_is_not_told_stays_as_it_was(tmp_path: Path) -> None:
    assert len(open_cluster(tmp_path, QUIET).nodes) == 1
    save_description(StateDirectory(tmp_path), Description("full", nodes=2, gpus=4))
    cluster = open_cluster(tmp_path, QUIET, gpus=1)
    assert len(cluster.nodes) == 2
    assert cluster.description == Description("full", nodes=2, gpus=1)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        pytest.param(Description("control-plane"), "control plane", id="control plane"),
        pytest.param(
            Description("full", 1, 0), "cluster with 1 node, 0 finetune.dev/fake-gpu each,", id="one node"
        ),
        pytest.param(
            Description("full", 2, 4), "cluster with 2 nodes, 4 finetune.dev/fake-gpu each,", id="two nodes"
        ),
    ],
)
def test_a_cluster_is_described(description: Description, words: str) -> None:
    assert describe_cluster(description) == words
