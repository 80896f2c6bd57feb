"""One S3-compatible store as the trainer sees it: objects in, objects out, failures as StageErrors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from s3transfer.futures import TransferFuture
from s3transfer.manager import TransferConfig, TransferManager

from finetune_api import names
from finetune_api.spec import Addressing, Checksums, Store
from finetune_trainer.errors import ObjectMissing, StorageUnavailable, UserError
from finetune_trainer.storage.credentials import MountedCredentials
from finetune_trainer.storage.failures import StoreDescription, translated
from finetune_trainer.storage.locations import ObjectInfo, S3Location, refuse_metadata_endpoint, safe_path

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 60
# Waits grow to 20 s: eight attempts ride out an outage of about half a minute.
DEFAULT_MAX_ATTEMPTS = 8
_MIB = 1024 * 1024
_PART_BYTES = 16 * _MIB
# Memory of a transfer stays below parts x concurrency, whatever the files' size.
_TRANSFER = TransferConfig(
    multipart_threshold=2 * _PART_BYTES,
    multipart_chunksize=_PART_BYTES,
    max_request_concurrency=6,
    max_submission_concurrency=2,
)
_DELETE_BATCH = 1000


class ObjectStore:
    """Objects by URI. Instances are safe to share between threads."""

    def __init__(self, client: Any, description: StoreDescription) -> None:  # noqa: ANN401 (botocore makes its clients at run time)
        self._client = client
        self._description = description

    @classmethod
    def open(cls, store: Store, *, max_attempts: int = DEFAULT_MAX_ATTEMPTS) -> ObjectStore:
        """Make a client for the store; nothing is sent yet. Raises UserError for a Secret without the keys."""
        if store.endpoint is not None:
            refuse_metadata_endpoint(store.endpoint)
        client = _client(store, max_attempts)
        secret = store.credentials_secret_ref
        return cls(client, StoreDescription(client.meta.endpoint_url, secret.name if secret else None))

    @property
    def endpoint(self) -> str:
        """The store's URL, for messages."""
        return self._description.endpoint

    # --- small objects ---------------------------------------------------------------------------------------

    def read_bytes(self, uri: str) -> bytes:
        """Read a whole object. Raises ObjectMissing, StorageDenied, StorageUnavailable."""
        return self._get(uri)

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        """Read `length` bytes from byte `start` on; fewer where the object ends before."""
        return self._get(uri, Range=f"bytes={start}-{start + length - 1}")

    def write_bytes(self, uri: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Write an object. With `only_if_absent`: return False if another content was already there."""
        location = S3Location.parse(uri)
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        with translated(self._description, uri, "write"):
            try:
                self._client.put_object(Bucket=location.bucket, Key=location.key, Body=data, **condition)
            except ClientError as error:
                if not _is_precondition_failed(error):
                    raise
                # The first answer may have been lost and this is the retry: then what stands there is ours.
                return self.read_bytes(uri) == data
        return True

    def read_version(self, uri: str) -> tuple[bytes, str] | None:
        """Read an object and the etag that `replace_bytes` wants; None where there is none."""
        location = S3Location.parse(uri)
        try:
            with translated(self._description, uri, "read"):
                response = self._client.get_object(Bucket=location.bucket, Key=location.key)
                with response["Body"] as body:
                    return bytes(body.read()), str(response["ETag"])
        except ObjectMissing:
            return None

    def replace_bytes(self, uri: str, data: bytes, *, etag: str | None) -> bool:
        """Write an object only over the version with this etag (None: only where there is none); else return False."""
        if etag is None:
            return self.write_bytes(uri, data, only_if_absent=True)
        location = S3Location.parse(uri)
        with translated(self._description, uri, "write"):
            try:
                self._client.put_object(Bucket=location.bucket, Key=location.key, Body=data, IfMatch=etag)
            except ClientError as error:
                if not _is_precondition_failed(error):
                    raise
                return self.read_bytes(uri) == data
        return True

    def exists(self, uri: str) -> bool:
        """Whether the object is there."""
        location = S3Location.parse(uri)
        try:
            with translated(self._description, uri, "read"):
                self._client.head_object(Bucket=location.bucket, Key=location.key)
        except ObjectMissing:
            return False
        return True

    def list_objects(self, prefix_uri: str) -> list[ObjectInfo]:
        """List the objects of a folder, recursively, sorted by name. An empty folder is an empty list."""
        location = S3Location.parse(prefix_uri)
        prefix = location.folder_prefix
        with translated(self._description, prefix_uri, "list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=location.bucket, Prefix=prefix
            )
            found = [
                ObjectInfo(
                    uri=f"s3://{location.bucket}/{entry['Key']}",
                    name=entry["Key"].removeprefix(prefix),
                    size_bytes=entry["Size"],
                    etag=entry.get("ETag", "").strip('"'),
                )
                for page in pages
                for entry in page.get("Contents", [])
                if not entry["Key"].endswith("/")  # the empty objects by which consoles show a folder
            ]
        return sorted(found, key=lambda info: info.name)

    def delete(self, uris: Iterable[str]) -> None:
        """Delete objects; those that are gone already are no error."""
        keys: dict[str, list[str]] = {}
        for uri in uris:
            location = S3Location.parse(uri)
            keys.setdefault(location.bucket, []).append(location.key)
        for bucket, bucket_keys in keys.items():
            for start in range(0, len(bucket_keys), _DELETE_BATCH):
                self._delete_batch(bucket, bucket_keys[start : start + _DELETE_BATCH])

    def delete_version(self, uri: str, etag: str) -> bool:
        """Delete an object only if it is still the version with this etag; else return False.

        A store that does not know the condition deletes without it.
        """
        location = S3Location.parse(uri)
        with translated(self._description, uri, "delete"):
            try:
                self._client.delete_object(Bucket=location.bucket, Key=location.key, IfMatch=etag)
            except ClientError as error:
                if _is_precondition_failed(error):
                    return False
                if not _is_not_implemented(error):
                    raise
                self._client.delete_object(Bucket=location.bucket, Key=location.key)
        return True

    def delete_folder(self, prefix_uri: str) -> int:
        """Delete every object of a folder, page by page, and return how many there were."""
        location = S3Location.parse(prefix_uri)
        count, deleted = 0, list[str]()
        while keys := self._first_keys(location, prefix_uri):
            self._ensure_gone(keys[0] not in deleted, prefix_uri)
            # Whatever stands inside a "folder" object goes before it.
            deleted = sorted(keys, reverse=True)
            self._delete_batch(location.bucket, deleted)
            count += len(keys)
        return count

    def abort_uploads(self, prefix_uri: str) -> int:
        """Remove what unfinished uploads left in a folder, and return how many there were."""
        location = S3Location.parse(prefix_uri)
        count, aborted = 0, list[tuple[str, str]]()
        while uploads := self._first_uploads(location, prefix_uri):
            self._ensure_gone(uploads[0] not in aborted, prefix_uri)
            aborted = uploads
            for key, upload_id in uploads:
                self._abort_upload(location.bucket, key, upload_id)
            count += len(uploads)
        return count

    # --- files -----------------------------------------------------------------------------------------------

    def download_file(self, uri: str, path: Path) -> None:
        """Download an object to a file, large ones in parallel ranges; the file appears when it is complete."""
        self.download_files({uri: path})

    def download_folder(
        self, prefix_uri: str, directory: Path, names: Iterable[str] | None = None
    ) -> list[Path]:
        """Download the named objects of a folder (default: all), keeping their relative paths."""
        wanted = list(names) if names is not None else [info.name for info in self.list_objects(prefix_uri)]
        files = {f"{prefix_uri.rstrip('/')}/{name}": safe_path(directory, name) for name in wanted}
        self.download_files(files)
        return list(files.values())

    def download_files(self, files: Mapping[str, Path]) -> None:
        """Download several objects at once, with bounded memory."""
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._transfers() as manager:
            futures = {uri: _start_download(manager, uri, path) for uri, path in files.items()}
            self._wait(futures, "read")

    def upload_file(self, path: Path, uri: str) -> None:
        """Upload a file, a large one in parallel parts."""
        self.upload_files({uri: path})

    def upload_files(self, files: Mapping[str, Path]) -> None:
        """Upload several files at once, with bounded memory."""
        with self._transfers() as manager:
            futures = {uri: _start_upload(manager, uri, path) for uri, path in files.items()}
            self._wait(futures, "write")

    # --- inner steps -----------------------------------------------------------------------------------------

    def _get(self, uri: str, **arguments: str) -> bytes:
        location = S3Location.parse(uri)
        with translated(self._description, uri, "read"):
            response = self._client.get_object(Bucket=location.bucket, Key=location.key, **arguments)
            with response["Body"] as body:
                return bytes(body.read())

    def _first_keys(self, location: S3Location, uri: str) -> list[str]:
        # Always the first page: what was deleted is not listed again, and who is interrupted needs no place to go on.
        with translated(self._description, uri, "list"):
            page = self._client.list_objects_v2(
                Bucket=location.bucket, Prefix=location.folder_prefix, MaxKeys=_DELETE_BATCH
            )
        return [entry["Key"] for entry in page.get("Contents", [])]

    def _first_uploads(self, location: S3Location, uri: str) -> list[tuple[str, str]]:
        with translated(self._description, uri, "list the unfinished uploads of"):
            page = self._client.list_multipart_uploads(Bucket=location.bucket, Prefix=location.folder_prefix)
        return [(entry["Key"], entry["UploadId"]) for entry in page.get("Uploads", [])]

    def _ensure_gone(self, is_gone: bool, uri: str) -> None:
        if not is_gone:
            raise StorageUnavailable(
                f"{self.endpoint} still lists what was deleted below {uri}. The stage is tried again; if this repeats, "
                "look at the bucket's retention rules."
            )

    def _abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        with translated(self._description, f"s3://{bucket}/{key}", "remove the unfinished upload of"):
            try:
                self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
            except ClientError as error:
                # It was finished or removed meanwhile.
                if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                    raise

    def _delete_batch(self, bucket: str, keys: list[str]) -> None:
        uri = f"s3://{bucket}/{keys[0]}"
        with translated(self._description, uri, "delete"):
            objects = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
            response = self._client.delete_objects(Bucket=bucket, Delete=objects)
            for failure in response.get("Errors", [])[:1]:
                answer = {"Error": {"Code": failure.get("Code", ""), "Message": failure.get("Message", "")}}
                raise ClientError(answer, "DeleteObjects")

    @contextmanager
    def _transfers(self) -> Iterator[TransferManager]:
        with TransferManager(self._client, _TRANSFER) as manager:
            yield manager

    def _wait(self, futures: Mapping[str, TransferFuture], action: str) -> None:
        for uri, future in futures.items():
            with translated(self._description, uri, action):
                future.result()


def _start_download(manager: TransferManager, uri: str, path: Path) -> TransferFuture:
    location = S3Location.parse(uri)
    return manager.download(location.bucket, location.key, os.fspath(path))


def _start_upload(manager: TransferManager, uri: str, path: Path) -> TransferFuture:
    location = S3Location.parse(uri)
    return manager.upload(os.fspath(path), location.bucket, location.key)


def _client(store: Store, max_attempts: int) -> Any:  # noqa: ANN401
    session = botocore.session.get_session()
    if store.credentials_secret_ref is not None:
        _use_mounted_secret(session, store.credentials_secret_ref.name)
    return boto3.session.Session(botocore_session=session).client(
        "s3",
        region_name=store.region,
        endpoint_url=store.endpoint.rstrip("/") if store.endpoint else None,
        config=_client_config(store, max_attempts),
        verify=_trusted_certificates(store),
    )


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


def _client_config(store: Store, max_attempts: int) -> Config:
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
        s3={"addressing_style": "path" if use_path else "virtual"},
    )


def _is_precondition_failed(error: ClientError) -> bool:
    return _status(error) == 412


def _is_not_implemented(error: ClientError) -> bool:
    return _status(error) == 501


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
