"""A stand-in for a mesh's admission webhook: it adds a container with a capability to the pods of one namespace.

So pods that satisfy the restricted Pod Security Standard as we build them are denied, as happens in real clusters.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.operator.api_client import Api

WEBHOOKS = "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
SIDECAR = {"name": "mesh", "image": "mesh", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}


@contextmanager
def sidecar_injector(api: Api, folder: Path) -> Iterator[None]:
    """Inject into the namespace's new pods for a while."""
    certificate = _write_certificate(folder / "webhook.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Injector)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "webhook.pem")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api.send("POST", WEBHOOKS, _configuration(api.namespace, server.server_address[1], certificate))
    try:
        yield
    finally:
        api.send("DELETE", f"{WEBHOOKS}/{api.namespace}")
        server.shutdown()


class _Injector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        patch = [{"op": "add", "path": "/spec/containers/-", "value": SIDECAR}]
        response = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
        }
        answer = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _configuration(namespace: str, port: int, certificate: str) -> dict[str, object]:
    webhook = {
        "name": "inject.mesh.example",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": certificate},
        "rules": [
            {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
        ],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    return {"metadata": {"name": namespace}, "webhooks": [webhook]}


def _write_certificate(path: Path) -> str:
    """Write a self-signed certificate with its key; returns it as a CA bundle."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mesh")]),
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=12))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + public)
    return base64.b64encode(public).decode()
