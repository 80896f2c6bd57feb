"""Brings onto the machine what a full cluster needs of the network: system packages and programs.

`up` begins with it. `prepare` does it alone, so that `up` can then run where there is no network.
"""

from pathlib import Path

from devcluster import preflight
from devcluster.console import Console
from devcluster.control_plane import PROGRAMS as CONTROL_PLANE_PROGRAMS
from devcluster.programs import check_builds, ensure_programs

PROGRAMS = (*CONTROL_PLANE_PROGRAMS, "versitygw", "kubelet", "kube-proxy", "coredns", "helm", "pause")


def prepare_machine(console: Console) -> dict[str, Path]:
    """Install the packages and build the programs that are missing; return where each program is."""
    preflight.check_root("a full cluster")
    # Refused builds come first: they cost nothing to find, and nothing has been installed by then.
    check_builds(PROGRAMS)
    preflight.ensure_packages(preflight.NODE_PACKAGES, console)
    return ensure_programs(PROGRAMS, console)
