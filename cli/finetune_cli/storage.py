"""Reads from S3-compatible stores; the only user of boto3 in the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from urllib3.exceptions import HTTPError

from finetune_api import names
from finetune_api.spec import Addressing, Checksums, Store
from finetune_cli.errors import CommandError

CHUNK_BYTES = 1 << 20
_DENIED_CODES = frozenset(
    {
        "401",
        "403",
        "AccessDenied",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "XAdminUserNotFound",  # versitygw's word, with status 404, for an access key that it does not know
    }
)
_MISSING_CODES = frozenset({"404", "NoSuchKey", "NotFound"})
# Providers that ask a server on the network; where there is none they cost seconds.
_SLOW_PROVIDERS = ("container-role", "iam-role")

SecretReader = Callable[[str, str], Mapping[str, str] | None]


class StoreDenied(CommandError):
    """These keys may not read that object; others might."""


class ObjectMissing(CommandError):
    """The store answers that there is no such object."""


class StoreInterrupted(CommandError):
    """The store stopped answering in the middle; asking again may help."""


@dataclass(frozen=True)
class Credentials:
    """Access keys, and what to call them in a sentence."""

    session: boto3.Session
    origin: str


def find_credentials(store: Store, namespace: str, read_secret: SecretReader) -> Iterator[Credentials]:
    """Yield the keys worth trying: the user's own, then the job's Secret, then those of the machine itself."""
    own = _own_session()
    if own is not None:
        yield Credentials(own, "the AWS keys of your environment or profile")
    reference = store.credentials_secret_ref
    keys = read_secret(reference.name, namespace) if reference else None
    if reference and keys:
        origin = f"Secret '{reference.name}' in namespace '{namespace}'"
        yield Credentials(_session_of_secret(keys, origin), origin)
    if own is None and reference is None:
        yield Credentials(boto3.Session(), "the AWS identity of this machine")


def _own_session() -> boto3.Session | None:
    session = botocore.session.Session()
    try:
        providers = session.get_component("credential_provider")
        for name in _SLOW_PROVIDERS:
            providers.remove(name)
        return boto3.Session(botocore_session=session) if session.get_credentials() else None
    except (ProfileNotFound, PartialCredentialsError) as error:
        raise CommandError(f"Your AWS settings are incomplete: {error} Mend or unset them.") from error


def _session_of_secret(keys: Mapping[str, str], origin: str) -> boto3.Session:
    required = (names.SECRET_KEY_ACCESS_KEY_ID, names.SECRET_KEY_SECRET_ACCESS_KEY)
    missing = [key for key in required if not keys.get(key)]
    if missing:
        raise CommandError(
            f"{origin} has no {missing[0]}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead."
        )
    return boto3.Session(
        aws_access_key_id=keys[names.SECRET_KEY_ACCESS_KEY_ID],
        aws_secret_access_key=keys[names.SECRET_KEY_SECRET_ACCESS_KEY],
        aws_session_token=keys.get(names.SECRET_KEY_SESSION_TOKEN),
    )


class ModelStore:
    """One store, read with one set of keys; may be used by several threads."""

    def __init__(
        self, store: Store, credentials: Credentials, *, endpoint: str | None, connections: int
    ) -> None:
        self._origin = credentials.origin
        self._ca_bundle = store.ca_bundle_ref
        self._endpoint = endpoint or store.endpoint
        self._client: Any = credentials.session.client(
            "s3",
            endpoint_url=self._endpoint,
            region_name=store.region,
            config=_client_config(store, self._endpoint, connections),
        )

    @property
    def address(self) -> str:
        """What to call the store in a sentence."""
        return self._endpoint or str(self._client.meta.endpoint_url)

    def read_bytes(self, uri: str) -> bytes:
        """Read a small object whole."""
        with self._errors(uri):
            content: bytes = self._client.get_object(**_location(uri))["Body"].read()
        return content

    def find_bytes(self, uri: str) -> bytes | None:
        """Read a small object whole; None where there is none."""
        try:
            return self.read_bytes(uri)
        except ObjectMissing:
            return None

    def read_range(self, uri: str, start: int, length: int) -> Iterator[bytes]:
        """Read part of an object, in chunks. Raises StoreInterrupted where the connection breaks."""
        wanted = f"bytes={start}-{start + length - 1}"
        with self._errors(uri):
            body = self._client.get_object(**_location(uri), Range=wanted)["Body"]
            yield from body.iter_chunks(CHUNK_BYTES)

    @contextmanager
    def _errors(self, uri: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._of_response(uri, error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreDenied(f"{self._origin} gives no access keys for {self.address}.") from error
        except SSLError as error:
            raise CommandError(self._untrusted_sentence()) from error
        except (BotoCoreError, HTTPError) as error:
            raise StoreInterrupted(
                f"{self.address} does not answer ({error}). If the store has another URL outside the cluster, "
                "give it with --endpoint."
            ) from error

    def _untrusted_sentence(self) -> str:
        bundle = self._ca_bundle
        where = f", which ConfigMap '{bundle.name}' of the job has under {bundle.key}" if bundle else ""
        return (
            f"The certificate of {self.address} is not trusted here. Set AWS_CA_BUNDLE to a file with the certificates "
            f"of its authority{where}."
        )

    def _of_response(self, uri: str, error: ClientError) -> CommandError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _DENIED_CODES or status in (401, 403):
            return StoreDenied(f"{self.address} refuses {self._origin} to read {uri} ({code or status}).")
        if code == "NoSuchBucket":
            return CommandError(f"Bucket '{_location(uri)['Bucket']}' does not exist at {self.address}.")
        if code in _MISSING_CODES or status == 404:
            return ObjectMissing(
                f"{uri} is not at {self.address}: was it deleted, or is --endpoint another store?"
            )
        if status >= 500 or status == 429:
            return StoreInterrupted(f"{self.address} answers {code or status} for {uri}, also after retries.")
        return CommandError(f"{self.address} refuses to show {uri}: {error}")


def _client_config(store: Store, endpoint: str | None, connections: int) -> Config:
    is_path = store.addressing is Addressing.PATH or (store.addressing is Addressing.AUTO and bool(endpoint))
    when = "when_supported" if store.checksums is Checksums.WHEN_SUPPORTED else "when_required"
    return Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if is_path else "virtual"},
        request_checksum_calculation=when,
        response_checksum_validation=when,
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=connections,
    )


def _location(uri: str) -> dict[str, str]:
    parts = urlsplit(uri)
    return {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}
