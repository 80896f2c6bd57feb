"""Removes what kubelet and CNI leave in places that cannot be configured: log links, a socket, a result cache.

Other clusters may use the same places, so only what is ours goes, and a folder only when it is empty.
"""

import contextlib
import socket
from pathlib import Path

LOG_LINKS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
CNI_RESULTS = Path("/var/lib/cni/results")


def remove_log_links(pod_logs: Path, links: Path = LOG_LINKS) -> None:
    """Remove the links to the logs of our pods."""
    if links.is_dir():
        for link in links.iterdir():
            if link.is_symlink() and link.readlink().is_relative_to(pod_logs):
                link.unlink()
    _remove_if_empty(links)


def remove_device_plugin_socket(folder: Path = DEVICE_PLUGINS) -> None:
    """Remove the socket on which kubelet waited for device plugins, unless another kubelet listens there."""
    path = folder / "kubelet.sock"
    if path.is_socket() and not _is_answered(path):
        path.unlink()
    _remove_if_empty(folder)
    _remove_if_empty(folder.parent)


def remove_network_results(network: str, folder: Path = CNI_RESULTS) -> None:
    """Remove what CNI remembered of pods on our network."""
    if folder.is_dir():
        for path in folder.glob(f"{network}-*"):
            path.unlink()
    _remove_if_empty(folder)
    _remove_if_empty(folder.parent)


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
