"""One S3-compatible store as the trainer sees it: objects in, objects out, failures as StageErrors."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from s3transfer.futures import TransferFuture
from s3transfer.manager import TransferConfig, TransferManager

from finetune_api.spec import Store
from finetune_trainer.errors import ObjectDamaged, ObjectMissing, StorageUnavailable
from finetune_trainer.storage.client import open_client
from finetune_trainer.storage.downloads import download_with_crcs
from finetune_trainer.storage.failures import StoreDescription, translated
from finetune_trainer.storage.locations import ObjectInfo, S3Location, refuse_metadata_endpoint, safe_path

logger = logging.getLogger(__name__)

# botocore's waits begin at 50 ms, double and end at 20 s: twelve attempts ride out an outage of about half a minute.
DEFAULT_MAX_ATTEMPTS = 12
_MIB = 1024 * 1024
_PART_BYTES = 16 * _MIB
# Memory of a transfer stays below parts x concurrency, whatever the files' size.
_TRANSFER = TransferConfig(
    multipart_threshold=2 * _PART_BYTES,
    multipart_chunksize=_PART_BYTES,
    max_request_concurrency=6,
    max_submission_concurrency=2,
    max_io_queue_size=64,
)
# Of all that S3 has known since 2022 the cheapest: processors have an instruction for it.
_ON_THE_WIRE = {"ChecksumAlgorithm": "CRC32C"}
_DELETE_BATCH = 1000
_POLL_SECONDS = 0.005


class ObjectStore:
    """Objects by URI. Instances are safe to share between threads."""

    def __init__(self, open_client: Callable[..., Any], secret_name: str | None) -> None:
        """`open_client` makes a client, or with signs_content=False one for files."""
        self._client = open_client()
        self._open_client = open_client
        self._description = StoreDescription(self._client.meta.endpoint_url, secret_name)

    @classmethod
    def open(cls, store: Store, *, max_attempts: int = DEFAULT_MAX_ATTEMPTS) -> ObjectStore:
        """Make a client for the store; nothing is sent yet. Raises UserError for a Secret without the keys."""
        if store.endpoint is not None:
            refuse_metadata_endpoint(store.endpoint)
        secret = store.credentials_secret_ref
        return cls(partial(open_client, store, max_attempts), secret.name if secret else None)

    @cached_property
    def _file_client(self) -> Any:  # noqa: ANN401 (botocore makes its clients at run time)
        # To sign a file's content would mean to hash it once more; its digest stands in a manifest, which is signed.
        return self._open_client(signs_content=False)

    @property
    def endpoint(self) -> str:
        """The store's URL, for messages."""
        return self._description.endpoint

    # --- small objects ---------------------------------------------------------------------------------------

    def read_bytes(self, uri: str) -> bytes:
        """Read a whole object. Raises ObjectMissing, StorageDenied, StorageUnavailable."""
        location = S3Location.parse(uri)
        with translated(self._description, uri, "read"):
            response = self._client.get_object(Bucket=location.bucket, Key=location.key)
            # Not `with response["Body"]`, which gives out the stream below the one that compares checksums.
            with closing(response["Body"]) as body:
                return bytes(body.read())

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        """Read `length` bytes from byte `start` on; fewer where the object ends before."""
        location, wanted = S3Location.parse(uri), f"bytes={start}-{start + length - 1}"
        with translated(self._description, uri, "read"):
            response = self._client.get_object(Bucket=location.bucket, Key=location.key, Range=wanted)
            # The stream below the one that compares checksums: some stores send the whole object's with a part of it.
            with response["Body"] as body:
                return bytes(body.read())

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
                with closing(response["Body"]) as body:
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

    def abort_uploads(self, prefix_uri: str, which: Callable[[str], bool] = lambda name: True) -> int:
        """Remove what unfinished uploads left in a folder, and return how many there were.

        `which`: those to remove, by the names of the objects relative to the folder. A store that keeps no list of them
        has none that could be removed.
        """
        location = S3Location.parse(prefix_uri)
        uploads = [
            (key, upload_id)
            for key, upload_id in self._unfinished_uploads(location, prefix_uri)
            if which(key.removeprefix(location.folder_prefix))
        ]
        for key, upload_id in uploads:
            self._abort_upload(location.bucket, key, upload_id)
        return len(uploads)

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

    def download_with_crcs(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Download several objects at once and return their CRC64-NVME, made as they arrive."""
        return download_with_crcs(self._fetch_range, files)

    def upload_file(self, path: Path, uri: str) -> None:
        """Upload a file, a large one in parallel parts."""
        self.upload_files({uri: path})

    def upload_files(
        self, files: Mapping[str, Path], is_cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """Upload several files at once, with bounded memory. When cancelled it returns before all are there."""
        is_checked = self._file_client.meta.config.request_checksum_calculation == "when_supported"
        checksum = _ON_THE_WIRE if is_checked else {}
        with self._transfers() as manager:
            futures = {uri: _start_upload(manager, uri, path, checksum) for uri, path in files.items()}
            self._wait(futures, "write", is_cancelled=is_cancelled)

    # --- inner steps -----------------------------------------------------------------------------------------

    def _fetch_range(self, uri: str, start: int, length: int, etag: str | None) -> Mapping[str, Any] | None:
        location, condition = S3Location.parse(uri), {} if etag is None else {"IfMatch": etag}
        with translated(self._description, uri, "read"):
            try:
                answer: Mapping[str, Any] = self._client.get_object(
                    Bucket=location.bucket,
                    Key=location.key,
                    Range=f"bytes={start}-{start + length - 1}",
                    **condition,
                )
            except ClientError as error:
                if _status(error) == 416:
                    return None  # It is empty.
                if not _is_precondition_failed(error):
                    raise
                raise ObjectDamaged(f"{uri} was replaced while it was read. It is read again.") from error
            return answer

    def _first_keys(self, location: S3Location, uri: str) -> list[str]:
        # Always the first page: what was deleted is not listed again, and who is interrupted needs no place to go on.
        with translated(self._description, uri, "list"):
            page = self._client.list_objects_v2(
                Bucket=location.bucket, Prefix=location.folder_prefix, MaxKeys=_DELETE_BATCH
            )
        return [entry["Key"] for entry in page.get("Contents", [])]

    def _unfinished_uploads(self, location: S3Location, uri: str) -> list[tuple[str, str]]:
        with translated(self._description, uri, "list the unfinished uploads of"):
            try:
                return list(self._uploads(location))
            except ClientError as error:
                # Some stores keep no list of them; rclone has none before the first upload.
                if _is_not_implemented(error) or _code(error) == "NoSuchUpload":
                    return []
                raise

    def _uploads(self, location: S3Location) -> Iterator[tuple[str, str]]:
        marker: dict[str, str] = {}
        while True:
            page = self._client.list_multipart_uploads(
                Bucket=location.bucket, Prefix=location.folder_prefix, **marker
            )
            yield from ((entry["Key"], entry["UploadId"]) for entry in page.get("Uploads", []))
            if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
                return
            # By key alone: versitygw refuses the upload id that it has just named.
            marker = {"KeyMarker": page["NextKeyMarker"]}

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
                if _code(error) != "NoSuchUpload":
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
        with TransferManager(self._file_client, _TRANSFER) as manager:
            yield manager

    def _wait(
        self,
        futures: Mapping[str, TransferFuture],
        action: str,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        try:
            for uri, future in futures.items():
                while not future.done() and not is_cancelled():
                    time.sleep(_POLL_SECONDS)
                if is_cancelled():
                    return
                with translated(self._description, uri, action):
                    future.result()
        finally:
            # After a failure, or when nobody wants them any more: the others need not go on.
            for future in futures.values():
                future.cancel()


def _start_download(manager: TransferManager, uri: str, path: Path) -> TransferFuture:
    location = S3Location.parse(uri)
    return manager.download(location.bucket, location.key, os.fspath(path))


def _start_upload(
    manager: TransferManager, uri: str, path: Path, checksum: Mapping[str, str]
) -> TransferFuture:
    location = S3Location.parse(uri)
    return manager.upload(os.fspath(path), location.bucket, location.key, extra_args=dict(checksum))


def _is_precondition_failed(error: ClientError) -> bool:
    return _status(error) == 412


def _is_not_implemented(error: ClientError) -> bool:
    return _status(error) == 501


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
