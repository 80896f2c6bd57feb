"""The client of one store: endpoint, addressing, authorities, keys, patience."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3.session
import botocore.session
from botocore.config import Config

from finetune_api import names
from finetune_api.spec import Addressing, Checksums, OutputStore, Store
from finetune_trainer.errors import UserError
from finetune_trainer.storage.credentials import MountedCredentials

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 60
_ALGORITHMS = {"AES256": "AES256", "KMS": "aws:kms"}


def open_client(store: Store, max_attempts: int, *, signs_content: bool = True) -> Any:  # noqa: ANN401 (botocore makes its clients at run time)
    """Make a client; nothing is sent yet. Raises UserError for a Secret or ConfigMap that is not mounted.

    Without `signs_content` requests are signed and what they carry is not: for files whose digests stand elsewhere.
    """
    session = botocore.session.get_session()
    if store.credentials_secret_ref is not None:
        _use_mounted_secret(session, store.credentials_secret_ref.name)
    client = boto3.session.Session(botocore_session=session).client(
        "s3",
        region_name=store.region,
        endpoint_url=store.endpoint.rstrip("/") if store.endpoint else None,
        config=_client_config(store, max_attempts, signs_content=signs_content),
        verify=_trusted_certificates(store),
    )
    if isinstance(store, OutputStore) and store.encryption is not None:
        _encrypt(client, store.encryption)
    return client


def _encrypt(client: Any, encryption: str) -> None:  # noqa: ANN401
    """Ask for it with every object that is begun, whole or in parts: AES256, KMS or KMS:<key>."""
    algorithm, _, key = encryption.partition(":")
    wanted = {"ServerSideEncryption": _ALGORITHMS[algorithm], **({"SSEKMSKeyId": key} if key else {})}

    def add(params: dict[str, object], **_: object) -> None:
        params.update(wanted)

    for operation in ("PutObject", "CreateMultipartUpload"):
        client.meta.events.register(f"provide-client-params.s3.{operation}", add)


def _trusted_certificates(store: Store) -> str | None:
    """The file of the authorities to trust; None for the image's public ones."""
    reference = store.ca_bundle_ref
    if reference is None:
        return None
    path = Path(names.ca_bundle_directory(reference.name)) / reference.key
    if not path.is_file():
        raise UserError(
            f"ConfigMap '{reference.name}' with key {reference.key} is not mounted at {path}. Create it in the job's "
            "namespace with the store's certificates, PEM, or correct store.caBundleRef."
        )
    return str(path)


def _use_mounted_secret(session: botocore.session.Session, secret_name: str) -> None:
    directory = Path(names.credentials_directory(secret_name))
    if not directory.is_dir():
        raise UserError(
            f"Secret '{secret_name}' is not mounted at {directory}. Create it in the job's namespace with the keys "
            f"{names.SECRET_KEY_ACCESS_KEY_ID} and {names.SECRET_KEY_SECRET_ACCESS_KEY}."
        )
    credentials = MountedCredentials(secret_name, directory)
    session.get_component("credential_provider").providers.insert(0, _FixedProvider(credentials))


class _FixedProvider:
    """A credential provider that has one answer, so that a Secret wins over the pod's environment."""

    METHOD = "mounted-secret"
    CANONICAL_NAME = None

    def __init__(self, credentials: MountedCredentials) -> None:
        self._credentials = credentials

    def load(self) -> MountedCredentials:
        return self._credentials


def _client_config(store: Store, max_attempts: int, *, signs_content: bool) -> Config:
    is_auto_path = store.addressing is Addressing.AUTO and store.endpoint is not None
    use_path = store.addressing is Addressing.PATH or is_auto_path
    checksums = "when_supported" if store.checksums is Checksums.WHEN_SUPPORTED else "when_required"
    return Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        # `standard` waits with jitter between attempts; `adaptive` would also slow down healthy requests.
        retries={"mode": "standard", "total_max_attempts": max_attempts},
        max_pool_connections=16,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        s3={
            "addressing_style": "path" if use_path else "virtual",
            # By https boto3 signs no content in any case.
            **({} if signs_content else {"payload_signing_enabled": False}),
        },
    )
