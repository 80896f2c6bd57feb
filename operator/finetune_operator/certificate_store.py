"""Keeps the certificate in its Secret, serves it, renews it in time, and puts the CA where jobs run.

The Secret is made empty by the chart; the operator may read and update that one and no other.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from finetune_operator.certificate import Bundle, KeyPair, ensure_current, load_bundle
from finetune_operator.cluster import Cluster, ClusterError, Conflict
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.ca_bundle import build_ca_bundle
from finetune_operator.settings import Settings

CHECK_EVERY_SECONDS = 3600.0
MAX_TRIES = 5

logger = logging.getLogger(__name__)


class CertificateStore:
    """The certificate in use. `tls` stays the same object: a renewed certificate is loaded into it."""

    def __init__(self, cluster: Cluster, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._clock = clock
        self._bundle: Bundle | None = None
        self._namespaces: set[str] = set()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2

    async def load(self) -> None:
        """Read the certificate, or make and keep a new one. Raises ClusterErrors."""
        for _ in range(MAX_TRIES):
            try:
                bundle = await self._load_once()
            except Conflict:
                continue  # Another operator wrote it meanwhile: take that one.
            if bundle != self._bundle:
                await self._use(bundle)
            return
        raise ClusterError(
            f"Secret '{self._settings.certificate_secret}' changed {MAX_TRIES} times while it was written"
        )

    async def keep_current(self) -> None:
        """Renew in time, for ever."""
        while True:
            await asyncio.sleep(CHECK_EVERY_SECONDS)
            try:
                await self.load()
            except ClusterError as error:
                logger.warning("the certificate was not checked; it is tried again: %s", error)

    async def ensure(self, namespace: str) -> None:
        """Put the CA certificate into a namespace unless this process has done so already. Raises ClusterErrors."""
        if namespace in self._namespaces:
            return
        assert self._bundle is not None
        await self._cluster.apply_config_map(
            build_ca_bundle(self._settings.pods.ca_config_map, namespace, self._bundle.authorities.decode())
        )
        self._namespaces.add(namespace)

    async def _load_once(self) -> Bundle:
        secret = await self._cluster.read_secret(
            self._settings.operator_namespace, self._settings.certificate_secret
        )
        found = load_bundle(_decode(secret.get("data") or {}))
        bundle = ensure_current(found, self._settings.progress_host, self._clock())
        if bundle != found:
            await self._cluster.update_secret({**secret, "data": _encode(bundle.data)})
            logger.info(
                "a new certificate for %s stands in Secret %s",
                self._settings.progress_host,
                self._settings.certificate_secret,
            )
        return bundle

    async def _use(self, bundle: Bundle) -> None:
        """Serve the certificate, and bring its authority to every namespace that has the one before."""
        _load_into(self.tls, bundle.leaf)
        self._bundle = bundle
        served, self._namespaces = self._namespaces, set()
        for namespace in served:
            await self.ensure(namespace)


def _load_into(tls: ssl.SSLContext, pair: KeyPair) -> None:
    """Serve a certificate from now on. The ssl module reads keys from files only."""
    with tempfile.NamedTemporaryFile(dir=_memory_folder()) as file:
        file.write(pair.certificate + pair.key)
        file.flush()
        tls.load_cert_chain(file.name)


def _memory_folder() -> str | None:
    """A folder that is not on disk, where there is one: a private key should not touch a disk."""
    folder = Path("/dev/shm")  # noqa: S108
    return str(folder) if folder.is_dir() else None


def _decode(data: JsonObject) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in data.items()}


def _encode(data: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in data.items()}
