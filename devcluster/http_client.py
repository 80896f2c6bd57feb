"""Talks HTTP to the cluster's own programs: readiness probes, and the few objects that `up` itself applies.

Standard library only: the dev cluster has to work before anything is installed.
"""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import cast

from devcluster.errors import DevClusterError
from devcluster.pki import Certificate

FIELD_MANAGER = "devcluster"
JsonObject = dict[str, object]


def answers(url: str, tls: ssl.SSLContext | None = None, timeout_seconds: float = 2.0) -> bool:
    """Say whether a GET of the URL is answered with a success."""
    try:
        with _opener(tls).open(url, timeout=timeout_seconds) as response:
            return bool(200 <= response.status < 300)
    except (OSError, http.client.HTTPException):
        return False


def client_tls(authority: Path, client: Certificate) -> ssl.SSLContext:
    """Build the TLS settings of a client that trusts one authority and shows one certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(client.certificate, client.key)
    return context


def unverified_tls() -> ssl.SSLContext:
    """Build TLS settings for asking a local program whose certificate it made itself."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class ApiClient:
    """The apiserver, for an administrator."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        self._server = server
        self._tls = tls

    def is_ready(self) -> bool:
        return answers(f"{self._server}/readyz", self._tls)

    def read(self, path: str) -> JsonObject | None:
        """Read an object or a list; None when there is none."""
        try:
            return self._send("GET", path, None, "application/json")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise DevClusterError(f"GET {path} was refused: {_reason(error)}") from error

    def apply(self, path: str, content: JsonObject) -> JsonObject:
        """Create or update an object by server-side apply."""
        query = f"fieldManager={FIELD_MANAGER}&force=true"
        return self._change(f"{path}?{query}", content, "application/apply-patch+yaml")

    def patch_json(self, path: str, operations: list[JsonObject]) -> JsonObject:
        """Apply a JSON patch."""
        return self._change(path, operations, "application/json-patch+json")

    def _change(self, path: str, content: object, content_type: str) -> JsonObject:
        try:
            return self._send("PATCH", path, content, content_type)
        except urllib.error.HTTPError as error:
            raise DevClusterError(f"PATCH {path} was refused: {_reason(error)}") from error

    def _send(self, method: str, path: str, content: object, content_type: str) -> JsonObject:
        body = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": content_type}
        request = urllib.request.Request(self._server + path, body, headers, method=method)  # noqa: S310 - ours
        with _opener(self._tls).open(request, timeout=30) as response:
            return cast(JsonObject, json.load(response))


def _opener(tls: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    # The proxy of the environment is for the world outside, never for this machine's own addresses.
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
    )


def _reason(error: urllib.error.HTTPError) -> str:
    return f"{error.code} {error.read().decode(errors='replace')[:500]}"
