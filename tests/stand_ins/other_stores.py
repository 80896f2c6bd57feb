"""Object stores of other makes, for what the trainer does on a store that keeps fewer promises than versitygw.

    with MotoServer(folder / "moto") as store:          # in memory; believes every key, signature and checksum
        store.make_bucket("models")
        store.endpoint, store.region, store.access_key
    with RcloneServer(folder / "rclone") as store:      # over a folder; ignores conditional writes
        ...
    with RcloneServer(folder / "rclone", is_secure=True) as store:      # https, store.ca_bundle is its authority

Each is a process of its own on a free port of loopback, and gone with its folder at the end of the block. What they
really do is pinned, request by request, by tests/integration/stores/test_servers.py.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from devcluster import S3Server, state
from devcluster.object_store import REGION, AccessKey, ensure_access_key
from devcluster.processes import Component
from devcluster.programs import ensure_programs
from devcluster.site import Site
from tests.builders.self_signed import CERTIFICATE_NAME, KEY_NAME, write_certificate


class StoreServer(Protocol):
    """What a test needs to know of an S3 server."""

    @property
    def endpoint(self) -> str:
        """Its URL."""

    @property
    def region(self) -> str:
        """The region that requests are signed for."""

    @property
    def access_key(self) -> AccessKey:
        """The only key that it knows, where it knows any."""

    @property
    def ca_bundle(self) -> Path | None:
        """The certificate behind an https URL."""

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket."""


def open_client(server: StoreServer, access_key: AccessKey | None = None) -> Any:
    """Open boto3's own client, for requests that ObjectStore does not make; nothing is tried twice."""
    key = access_key or server.access_key
    return _session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=key.identifier,
        aws_secret_access_key=key.secret,
        verify=str(server.ca_bundle) if server.ca_bundle else None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
        ),
    )


@cache
def _session() -> boto3.session.Session:
    # A session reads megabytes of descriptions before it makes its first client.
    return boto3.session.Session()


class VersitygwServer(S3Server):
    """The S3 server of all other tests, beside those below."""

    ca_bundle = None

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket."""
        open_client(self).create_bucket(Bucket=name)


class _OneProcess(Site):
    """A server that is one process, with a state folder."""

    name: str

    def __init__(self, state_dir: Path, *, is_secure: bool = False) -> None:
        super().__init__(state_dir)
        self._is_secure = is_secure

    @abstractmethod
    def command(self) -> tuple[str, ...]:
        """The command line, program first."""

    @property
    def environment(self) -> dict[str, str]:
        return {}

    @property
    def region(self) -> str:
        return REGION

    @cached_property
    def port(self) -> int:
        return state.load_ports(self.state, [self.name], self._address)[self.name]

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._is_secure else 'http'}://{self._address}:{self.port}"

    @property
    def ca_bundle(self) -> Path | None:
        return self.state.config / CERTIFICATE_NAME if self._is_secure else None

    @cached_property
    def access_key(self) -> AccessKey:
        return ensure_access_key(self.state.config / "s3-access-key.json")

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket."""
        open_client(self).create_bucket(Bucket=name)

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers."""
        self.state.ensure()
        if self.ca_bundle is not None and not self.ca_bundle.exists():
            write_certificate(self.state.config)
        component = Component(self.name, self.command(), self._answers, self.environment)
        self.processes.ensure_all_running([component], self._console)

    def stop(self) -> None:
        """Stop the process."""
        self.processes.stop(self.name)

    def certificate_options(self, certificate: str, key: str) -> tuple[str, ...]:
        """The options of a secure server that name its certificate and the key of that; none for a plain one."""
        if not self._is_secure:
            return ()
        return (
            certificate,
            str(self.state.config / CERTIFICATE_NAME),
            key,
            str(self.state.config / KEY_NAME),
        )

    def _answers(self) -> bool:
        try:
            open_client(self).list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True


class MotoServer(_OneProcess):
    """moto's server. It keeps everything in memory: nothing is left of it once it has stopped."""

    name = "moto"

    def command(self) -> tuple[str, ...]:
        return (
            *(sys.executable, "-m", "moto.server", "--host", self._address, "--port", str(self.port)),
            *self.certificate_options("--ssl-cert", "--ssl-key"),
        )


class RcloneServer(_OneProcess):
    """`rclone serve s3`, which is built first where there is none."""

    name = "rclone"

    @property
    def data(self) -> Path:
        """The folder behind the server: one folder a bucket, one file an object."""
        return self.state.root / "s3"

    def command(self) -> tuple[str, ...]:
        program = ensure_programs([self.name], self._console)[self.name]
        self.data.mkdir(parents=True, exist_ok=True)
        # No configuration: the remotes of whoever runs the tests are not ours.
        return (
            *(str(program), "serve", "s3", "--config", "", "--addr", f"{self._address}:{self.port}"),
            *self.certificate_options("--cert", "--key"),
            str(self.data),
        )

    @property
    def environment(self) -> dict[str, str]:
        # The variable holds comma-separated values, of which this pair is one.
        return {"RCLONE_AUTH_KEY": f'"{self.access_key.identifier},{self.access_key.secret}"'}
