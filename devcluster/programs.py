"""Finds the programs a cluster is made of, or builds them from Go modules.

Order: KUBEBUILDER_ASSETS, our cache, PATH where the version is exactly the wanted one, and at last `go build` in
one of the module folders below tools/. The cache lies outside the repository and is keyed by what goes into a build.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster import preflight
from devcluster.console import Console
from devcluster.errors import DevClusterError

TOOLS = Path(__file__).parent / "tools"
KUBERNETES_VERSION = "v1.34.4"
KUBERNETES_LDFLAGS = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in (("gitVersion", KUBERNETES_VERSION), ("gitMajor", "1"), ("gitMinor", "34"))
)


@dataclass(frozen=True)
class Program:
    """One executable: where its source is pinned, and how to recognise it on PATH."""

    name: str
    tool: str
    package: str
    version: str
    version_command: tuple[str, ...] = ("--version",)
    ldflags: str = ""


def _kubernetes(name: str, version_command: tuple[str, ...] = ("--version",)) -> Program:
    package = f"k8s.io/kubernetes/cmd/{name}"
    return Program(name, "kubernetes", package, KUBERNETES_VERSION, version_command, KUBERNETES_LDFLAGS)


PROGRAMS: Mapping[str, Program] = {
    program.name: program
    for program in (
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        _kubernetes("kubectl", ("version", "--client")),
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", "3.6.8"),
        Program("coredns", "coredns", ".", "1.15.0", ("-version",)),
        Program("versitygw", "versitygw", "github.com/versity/versitygw/cmd/versitygw", "1.8.0"),
        Program("helm", "helm", "helm.sh/helm/v3/cmd/helm", "v3.22.0", ("version", "--short")),
        Program(
            "kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0", ("-v",)
        ),
        # 1.76 honours conditional writes; the tests want a store that ignores them.
        Program("rclone", "rclone", ".", "1.75.1"),
        Program("pause", "pause", ".", "none: only our own build will do"),
    )
}


def ensure_programs(names: Iterable[str], console: Console) -> dict[str, Path]:
    """Return where each program is, building those that are found nowhere."""
    wanted = list(names)
    if missing := check_builds(wanted):
        console.say(
            f"{len(missing)} programs are built from Go modules, once for this machine; all of them together "
            "take about 8 minutes on two cores"
        )
    return {name: ensure_program(PROGRAMS[name], console) for name in wanted}


def check_builds(names: Iterable[str]) -> list[str]:
    """List the programs that have to be built, and refuse where that cannot work."""
    cache = cache_folder(os.environ)
    missing = [
        name
        for name in names
        if find_program(PROGRAMS[name], os.environ, cached_path(PROGRAMS[name], cache, TOOLS)) is None
    ]
    if missing:
        preflight.check_go(missing[0])
        # Go keeps the modules and what it compiled of them.
        preflight.check_free_disk(cache, min(9, 2 * len(missing)), "building the cluster's programs")
    return missing


def ensure_program(program: Program, console: Console) -> Path:
    """Return where the program is, building it when it is found nowhere."""
    cached = cached_path(program, cache_folder(os.environ), TOOLS)
    found = find_program(program, os.environ, cached)
    if found is not None:
        return found
    with _one_build_at_a_time(cached):
        if not cached.exists():
            _build(program, cached, console)
    return cached


def find_program(program: Program, environment: Mapping[str, str], cached: Path) -> Path | None:
    """Look for a program in every place but the compiler."""
    assets = environment.get("KUBEBUILDER_ASSETS")
    if assets and (Path(assets) / program.name).is_file():
        return Path(assets) / program.name
    if cached.is_file():
        return cached
    on_path = shutil.which(program.name, path=environment.get("PATH"))
    if on_path and is_version(Path(on_path), program):
        return Path(on_path)
    return None


def is_version(path: Path, program: Program) -> bool:
    """Ask an executable for its version."""
    try:
        answer = subprocess.run(
            [path, *program.version_command], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    words = (answer.stdout + answer.stderr).replace(",", " ").replace("+", " ").split()
    wanted = program.version.removeprefix("v")
    return any(word.rpartition("-")[2].removeprefix("v") == wanted for word in words)


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Decide where built programs are kept between clusters and checkouts."""
    if own := environment.get("FINETUNE_CACHE"):
        return Path(own)
    if shared := environment.get("XDG_CACHE_HOME"):
        return Path(shared) / "finetune-devcluster"
    return Path.home() / ".cache/finetune-devcluster"


def cached_path(program: Program, cache: Path, tools: Path) -> Path:
    """Name the cache entry of a program; a changed pin, source, flag or machine type gives another name."""
    digest = hashlib.sha256("\0".join((program.package, program.ldflags, platform.machine())).encode())
    for path in sorted((tools / program.tool).iterdir()):
        if path.suffix in {".mod", ".sum", ".go"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return cache / "bin" / f"{program.tool}-{digest.hexdigest()[:16]}" / program.name


def _build(program: Program, target: Path, console: Console) -> None:
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOWORK": "off",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
    }
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    command = ["go", "build", "-trimpath", "-ldflags", f"-s -w {program.ldflags}".strip()]
    with console.step(f"building {program.name} (kept in {target.parent})"):
        result = subprocess.run(
            [*command, "-o", str(temporary), program.package],
            cwd=TOOLS / program.tool,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            end = "\n".join(result.stderr.splitlines()[-15:])
            raise DevClusterError(
                f"go build of {program.name} failed in {TOOLS / program.tool}; the modules must be reachable "
                f"through GOPROXY ({environment.get('GOPROXY', 'the default of go')}):\n{end}"
            )
        temporary.replace(target)


@contextmanager
def _one_build_at_a_time(target: Path) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link_programs(programs: Mapping[str, Path], folder: Path) -> None:
    """Put links to the programs into one folder for the user's PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in programs.items():
        link = folder / f".{name}.{os.getpid()}.{time.monotonic_ns()}"
        link.symlink_to(path)
        link.replace(folder / name)
