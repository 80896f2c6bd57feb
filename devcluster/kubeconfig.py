"""Writes kubeconfig files: one for the user, and one for each component that talks to the apiserver.

Certificates are embedded, so that a file can be copied and read on its own.
"""

import base64
from pathlib import Path

from devcluster.pki import Authority, Certificate
from devcluster.state import write_json

CONTEXT = "devcluster"


def write_kubeconfig(path: Path, server: str, authority: Authority, client: Certificate) -> Path:
    """Write a kubeconfig with one context, `devcluster`."""
    cluster = {"server": server, "certificate-authority-data": _encode(authority.certificate)}
    user = {"client-certificate-data": _encode(client.certificate), "client-key-data": _encode(client.key)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "users": [{"name": CONTEXT, "user": user}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }
    return write_json(path, content)


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
