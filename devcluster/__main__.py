"""The command line: a table of commands, each of which asks the module that does the work.

python -m devcluster up --gpus 2 && source .devcluster/env
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from devcluster import build_images, programs, report, teardown
from devcluster.cluster import Cluster, open_cluster
from devcluster.console import Console
from devcluster.control_plane import ControlPlane
from devcluster.environment import write_environment
from devcluster.errors import DevClusterError
from devcluster.preflight import check_root
from devcluster.preparation import prepare_machine
from devcluster.state import StateDirectory, ensure_mode, lock_state

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT_STATE = REPOSITORY / ".devcluster"

DESCRIPTION = """
A real Kubernetes on this one machine, made of its own programs (etcd, kube-apiserver, kubelet, containerd, …), with an
S3 server beside it. Programs that are not found are built from Go modules and kept in ~/.cache/finetune-devcluster
(or $FINETUNE_CACHE). Everything else lives in the state folder.
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except DevClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on, or `down` to clear up", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Describe every command and option."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state-dir",
        type=Path,
        default=DEFAULT_STATE,
        metavar="DIR",
        help="the folder of the cluster (default: .devcluster of this checkout)",
    )
    parser = argparse.ArgumentParser(prog="python -m devcluster", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common], help=summary, description=summary)
        command.set_defaults(run=run)
        return command

    up = add("up", _up, "start a cluster, or complete and repair the one that is there")
    up.add_argument(
        "--control-plane-only",
        action="store_true",
        help="etcd, apiserver, controllers and scheduler on loopback; needs no root and takes seconds",
    )
    up.add_argument("--nodes", type=int, choices=(1, 2), help="real nodes (default: as before, or 1)")
    up.add_argument(
        "--gpus",
        type=_count,
        metavar="N",
        help="stand-in GPUs (finetune.dev/fake-gpu) that each node offers (default: as before, or 0)",
    )
    add(
        "prepare",
        _prepare,
        "install the packages and build the programs that `up` needs, so that `up` can run without a network",
    )
    down = add(
        "down", _down, "remove the cluster with its pods and its S3 data; loaded images stay for the next one"
    )
    down.add_argument("--purge", action="store_true", help="remove the loaded images too")
    add("status", _status, "show every part of the cluster; exit with 1 when one is not healthy")
    add("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig")
    load = add("load-image", _load_image, "bring images from buildah's local store to every node")
    load.add_argument("images", nargs="+", metavar="IMAGE")
    logs = add("logs", _logs, "list the log files, or show the end of one component's")
    logs.add_argument("component", nargs="?", metavar="COMPONENT")
    logs.add_argument("-n", "--lines", type=_count, default=200, help="how many lines (default: 200)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as the log grows")
    add("build-images", _build_images, "build the operator's and the trainer's images with buildah")
    program = add(
        "program", _program, "print where programs are (helm, kubeconform, …), building what is missing"
    )
    program.add_argument("names", nargs="+", choices=sorted(programs.PROGRAMS), metavar="NAME")
    return parser


def _up(options: argparse.Namespace) -> int:
    console = Console(sys.stdout)
    if not options.control_plane_only:
        check_root("a full cluster")
    state = _state(options)
    with lock_state(state):
        if options.control_plane_only:
            ensure_mode(state, "control-plane")
            plane = ControlPlane(state.root, console=console)
            plane.start()
            write_environment(state, None)
        else:
            ensure_mode(state, "full")
            open_cluster(state.root, console, nodes=options.nodes, gpus=options.gpus).up()
    console.say(f"the cluster is ready: source {state.environment}")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    prepare_machine(Console(sys.stdout))
    return 0


def _down(options: argparse.Namespace) -> int:
    console, state = Console(sys.stdout), _state(options)
    with lock_state(state):
        teardown.remove_cluster(state, keep_images=not options.purge, console=console)
    return 0


def _status(options: argparse.Namespace) -> int:
    return report.print_status(_state(options))


def _kubeconfig(options: argparse.Namespace) -> int:
    state = _state(options)
    if not state.kubeconfig.exists():
        raise DevClusterError(
            f"there is no cluster in {state.root}; start one with `python -m devcluster up`"
        )
    print(state.kubeconfig)
    return 0


def _load_image(options: argparse.Namespace) -> int:
    cluster = _running_cluster(options)
    with lock_state(cluster.state):
        for image in options.images:
            cluster.load_image(image)
    return 0


def _logs(options: argparse.Namespace) -> int:
    state = _state(options)
    if options.component is None:
        return report.print_log_files(state)
    path = report.find_log(state, options.component)
    follow = ["-f"] if options.follow else []
    return subprocess.run(["tail", f"--lines={options.lines}", *follow, str(path)], check=False).returncode


def _build_images(options: argparse.Namespace) -> int:
    build_images.ensure_images(REPOSITORY, Console(sys.stdout))
    return 0


def _program(options: argparse.Namespace) -> int:
    found = programs.ensure_programs(options.names, Console(sys.stderr))
    for name in options.names:
        print(found[name])
    return 0


def _running_cluster(options: argparse.Namespace) -> Cluster:
    state = _state(options)
    ensure_mode(state, "full", must_exist=True)
    return open_cluster(state.root, Console(sys.stdout))


def _state(options: argparse.Namespace) -> StateDirectory:
    return StateDirectory(options.state_dir.resolve())


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
