"""What each S3 server really does: request by request, as a table of answers, and then through ObjectStore.

Tests of the checkpoint protocol choose their server by these facts; a release that changes one of them fails here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from finetune_api.spec import Checksums, Store
from finetune_trainer.errors import ObjectDamaged, ObjectMissing, StorageDenied, StorageUnavailable, UserError
from finetune_trainer.storage import ObjectStore
from tests.integration.stores.conftest import STORES
from tests.stand_ins.other_stores import StoreServer, open_client

MIB = 1024 * 1024
KEY = "folder/object"
OTHER_ETAG = f'"{"0" * 32}"'
WRONG_CRC32 = base64.b64encode(bytes(4)).decode()
WRONG_MD5 = base64.b64encode(bytes(16)).decode()
THREE_UPLOADS = ["folder/another", KEY, "folder/third"]
DONE = "done"
PRECONDITION_FAILED = "412 PreconditionFailed"
NO_UPLOAD = "404 NoSuchUpload"


# --- request by request -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asker:
    """Who sends single requests by boto3's client, about a bucket that holds one object, KEY."""

    server: StoreServer
    bucket: str
    client: Any

    def put(self, key: str = KEY, **arguments: object) -> str:
        """Write an object."""
        self.client.put_object(**{"Bucket": self.bucket, "Key": key, "Body": b"content", **arguments})
        return DONE

    def head(self, **arguments: object) -> dict[str, Any]:
        """What the server says of KEY."""
        answer: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=KEY, **arguments)
        return answer

    def keys(self) -> list[str]:
        """The bucket's keys, listed two a page, in the server's order."""
        paginator = self.client.get_paginator("list_objects_v2")
        pages = paginator.paginate(Bucket=self.bucket, PaginationConfig={"PageSize": 2})
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def listed_etag(self) -> str:
        """KEY's etag as a listing shows it."""
        return str(self.client.list_objects_v2(Bucket=self.bucket)["Contents"][0]["ETag"])

    def begin_upload(self, key: str = KEY) -> dict[str, str]:
        """Begin an upload in parts and send one; what names the upload in later requests."""
        upload = self.client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
        names = {"Bucket": self.bucket, "Key": key, "UploadId": upload}
        self.client.upload_part(**names, PartNumber=1, Body=b"part")
        return names

    def finish_upload(self, **arguments: str) -> str:
        """Upload KEY in one part; the etag in the last answer."""
        names = self.begin_upload()
        part = {"PartNumber": 1, "ETag": f'"{hashlib.md5(b"part").hexdigest()}"'}
        done = self.client.complete_multipart_upload(**names, MultipartUpload={"Parts": [part]}, **arguments)
        return str(done["ETag"])

    def unfinished_uploads(self) -> list[str]:
        """The keys of the uploads that are under way below folder/."""
        page = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix="folder/")
        return [entry["Key"] for entry in page.get("Uploads", [])]

    def as_somebody(self, **keys: str) -> Asker:
        """The same bucket, asked with another access key or secret."""
        return replace(self, client=open_client(self.server, replace(self.server.access_key, **keys)))


def finish_upload_where_nothing_is(ask: Asker) -> object:
    ask.finish_upload(IfNoneMatch="*")
    return DONE


def read_another_version(ask: Asker) -> object:
    ask.client.get_object(Bucket=ask.bucket, Key=KEY, IfMatch=OTHER_ETAG)
    return DONE


def delete_another_version(ask: Asker) -> object:
    ask.client.delete_object(Bucket=ask.bucket, Key=KEY, IfMatch=OTHER_ETAG)
    return DONE


def delete_what_is_not_there(ask: Asker) -> object:
    objects = [{"Key": key} for key in ("nothing", "nowhere/nothing", KEY)]
    return ask.client.delete_objects(Bucket=ask.bucket, Delete={"Objects": objects}).get("Errors", [])


def show_the_checksum_of_what_came_in_parts(ask: Asker) -> object:
    in_parts = TransferConfig(multipart_threshold=1)
    ask.client.upload_fileobj(io.BytesIO(b"content"), ask.bucket, KEY, Config=in_parts)
    return "ChecksumCRC32" in ask.client.get_object(Bucket=ask.bucket, Key=KEY)


def list_uploads_while_one_is_open(ask: Asker) -> object:
    ask.begin_upload()
    return ask.unfinished_uploads()


def list_uploads_one_a_page(ask: Asker) -> object:
    for key in reversed(THREE_UPLOADS):
        ask.begin_upload(key)
    paginator = ask.client.get_paginator("list_multipart_uploads")
    pages = paginator.paginate(Bucket=ask.bucket, Prefix="folder/", PaginationConfig={"PageSize": 1})
    return sorted(entry["Key"] for page in pages for entry in page.get("Uploads", []))


def list_uploads_after_the_last_one(ask: Asker) -> object:
    ask.finish_upload()
    return ask.unfinished_uploads()


def list_objects_while_an_upload_is_open(ask: Asker) -> object:
    ask.begin_upload("folder/another")
    return ask.keys()


def abort_an_upload_twice(ask: Asker) -> object:
    names = ask.begin_upload()
    ask.client.abort_multipart_upload(**names)
    ask.client.abort_multipart_upload(**names)
    return DONE


def list_in_the_order_of_bytes(ask: Asker) -> object:
    for key in ("folder0", "folder.a", "folder-a"):
        ask.put(key)
    return ask.keys() == ["folder-a", "folder.a", KEY, "folder0"]


def write_an_object_that_ends_in_a_slash(ask: Asker) -> object:
    ask.put("marker/", Body=b"")
    return ask.keys()


@dataclass(frozen=True)
class Row:
    """A request, and what each server answers: a result, or status and code of a refusal."""

    what: str
    ask: Callable[[Asker], object]
    versitygw: object
    moto: object
    rclone: object


ROWS = (
    # Conditions.
    Row("write if absent, and it is", lambda ask: ask.put("new", IfNoneMatch="*"), DONE, DONE, DONE),
    Row(
        "write if absent, and it is not",
        lambda ask: ask.put(IfNoneMatch="*"),
        *(PRECONDITION_FAILED, PRECONDITION_FAILED, DONE),
    ),
    Row(
        "complete an upload if absent, and it is not",
        finish_upload_where_nothing_is,
        *(PRECONDITION_FAILED, PRECONDITION_FAILED, DONE),
    ),
    Row("write over this version", lambda ask: ask.put(IfMatch=ask.head()["ETag"]), DONE, DONE, DONE),
    Row(
        "write over another version",
        lambda ask: ask.put(IfMatch=OTHER_ETAG),
        *(PRECONDITION_FAILED, PRECONDITION_FAILED, DONE),
    ),
    Row(
        "write over a version of what is absent",
        lambda ask: ask.put("new", IfMatch=OTHER_ETAG),
        *("404 NoSuchKey", "404 NoSuchKey", DONE),
    ),
    Row("read another version", read_another_version, PRECONDITION_FAILED, PRECONDITION_FAILED, DONE),
    Row("delete another version", delete_another_version, PRECONDITION_FAILED, PRECONDITION_FAILED, DONE),
    # Keys.
    Row(
        "list with a wrong secret",
        lambda ask: ask.as_somebody(secret="of somebody else").keys(),
        *("403 SignatureDoesNotMatch", [KEY], "403 SignatureDoesNotMatch"),
    ),
    Row(
        "list with an unknown key",
        lambda ask: ask.as_somebody(identifier="NOBODY").keys(),
        *("404 XAdminUserNotFound", [KEY], "403 InvalidAccessKeyId"),
    ),
    Row(
        # versitygw's other answers are 404 too, but say why; a head has no body to say it in.
        "head with an unknown key",
        lambda ask: ask.as_somebody(identifier="NOBODY").head() and DONE,
        *("404 404", DONE, "403 403"),
    ),
    # Checksums.
    Row(
        "write with a wrong CRC32",
        lambda ask: ask.put(ChecksumCRC32=WRONG_CRC32),
        *("400 BadDigest", DONE, DONE),
    ),
    Row(
        "write with a wrong MD5",
        lambda ask: ask.put(ContentMD5=WRONG_MD5),
        *("400 BadDigest", DONE, "400 BadDigest"),
    ),
    Row(
        "show an object's CRC32 in a head",
        lambda ask: "ChecksumCRC32" in ask.head(ChecksumMode="ENABLED"),
        *(True, True, True),
    ),
    Row(
        "show an object's CRC32 with its content",
        lambda ask: "ChecksumCRC32" in ask.client.get_object(Bucket=ask.bucket, Key=KEY),
        *(True, True, True),
    ),
    Row(
        "show the CRC32 of what came in parts",
        show_the_checksum_of_what_came_in_parts,
        *(True, True, False),
    ),
    # Uploads in parts.
    Row("list uploads where there never was one", Asker.unfinished_uploads, [], [], NO_UPLOAD),
    Row("list uploads while one is open", list_uploads_while_one_is_open, [KEY], [KEY], [KEY]),
    Row(
        # versitygw does not take back the marker that it has just given; moto has one page only.
        "list uploads one a page",
        list_uploads_one_a_page,
        *("400 InvalidArgument", THREE_UPLOADS, THREE_UPLOADS),
    ),
    Row("list uploads after the last one", list_uploads_after_the_last_one, [], [], []),
    Row("list objects while an upload is open", list_objects_while_an_upload_is_open, [KEY], [KEY], [KEY]),
    Row("abort an upload twice", abort_an_upload_twice, NO_UPLOAD, NO_UPLOAD, NO_UPLOAD),
    Row(
        "answer an upload with the etag that is seen later",
        lambda ask: ask.finish_upload() == ask.head()["ETag"],
        *(True, True, False),
    ),
    # Listings and names.
    Row(
        "list the etag that a head shows",
        lambda ask: ask.listed_etag().strip('"') == ask.head()["ETag"].strip('"'),
        *(True, True, True),
    ),
    Row("list etags in quotes", lambda ask: ask.listed_etag().startswith('"'), True, True, False),
    Row("list in the order of bytes", list_in_the_order_of_bytes, True, True, True),
    Row(
        "write an object that ends in a slash",
        write_an_object_that_ends_in_a_slash,
        *([KEY, "marker/"], [KEY, "marker/"], [KEY, "marker"]),
    ),
    Row(
        "write below an object",
        lambda ask: ask.put(f"{KEY}/below"),
        *("409 ObjectParentIsFile", DONE, "500 InternalError"),
    ),
    Row("delete objects that are not there", delete_what_is_not_there, [], [], []),
)


@pytest.mark.parametrize(
    ("store_server", "ask", "expected"),
    [
        pytest.param(name, row.ask, getattr(row, name), id=f"{name}: {row.what}")
        for name in STORES
        for row in ROWS
    ],
    indirect=["store_server"],
)
def test_a_server_answers_as_the_table_says(
    store_server: StoreServer, bucket: str, ask: Callable[[Asker], object], expected: object
) -> None:
    asker = Asker(store_server, bucket, open_client(store_server))
    asker.put()
    assert _answer(ask, asker) == expected


def _answer(ask: Callable[[Asker], object], asker: Asker) -> object:
    try:
        return ask(asker)
    except ClientError as error:
        return f"{error.response['ResponseMetadata']['HTTPStatusCode']} {error.response['Error']['Code']}"


# --- through ObjectStore: what every server does ----------------------------------------------------------------


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these servers only."""
    return pytest.mark.parametrize("store_server", names, indirect=True)


def test_bytes_come_back_as_they_were_written(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/a/b.bin"
    assert store.write_bytes(uri, b"hello world")
    assert store.read_bytes(uri) == b"hello world"
    assert store.read_range(uri, 6, 3) == b"wor"
    assert store.read_range(uri, 6, 100) == b"world"
    assert store.exists(uri)
    assert not store.exists(f"s3://{bucket}/a")


def test_listings_are_sorted_recursive_and_relative_to_the_folder(store: ObjectStore, bucket: str) -> None:
    for name in ("b.txt", "a/2.txt", "a/1.txt", "模型 a+b%20.txt"):
        store.write_bytes(f"s3://{bucket}/folder/{name}", name.encode())
    store.write_bytes(f"s3://{bucket}/folder-beside/c.txt", b"c")
    found = store.list_objects(f"s3://{bucket}/folder")
    assert [info.name for info in found] == ["a/1.txt", "a/2.txt", "b.txt", "模型 a+b%20.txt"]
    assert [info.size_bytes for info in found] == [7, 7, 5, 17]
    assert all(info.etag for info in found)
    assert store.list_objects(f"s3://{bucket}/nothing") == []


def test_objects_and_folders_are_deleted_whether_they_are_there_or_not(
    store: ObjectStore, bucket: str
) -> None:
    names = ("a/1", "a/2", "a/deep/3", "b", "c")
    for name in names:
        store.write_bytes(f"s3://{bucket}/folder/{name}", b"x")
    store.delete([f"s3://{bucket}/folder/b", f"s3://{bucket}/folder/nothing"])
    found = store.list_objects(f"s3://{bucket}/folder")
    assert [info.name for info in found] == ["a/1", "a/2", "a/deep/3", "c"]
    assert store.delete_folder(f"s3://{bucket}/folder/a") == 3
    assert [info.name for info in store.list_objects(f"s3://{bucket}/folder")] == ["c"]
    assert store.delete_folder(f"s3://{bucket}/folder/a") == 0


def test_more_objects_than_a_listing_holds_are_all_found_and_deleted(store: ObjectStore, bucket: str) -> None:
    uris = [f"s3://{bucket}/many/{number % 7}/{number}" for number in range(1001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: store.write_bytes(uri, b""), uris))
    assert {info.uri for info in store.list_objects(f"s3://{bucket}/many")} == set(uris)
    assert store.delete_folder(f"s3://{bucket}/many") == len(uris)
    assert store.list_objects(f"s3://{bucket}/many") == []


@pytest.mark.parametrize(
    ("store_server", "checksums"),
    [
        pytest.param(name, checksums, id=f"{name} {checksums}")
        for name in (*STORES, "moto_https", "rclone_https")
        for checksums in Checksums
        if (name, checksums) != ("rclone_https", Checksums.WHEN_SUPPORTED)
    ],
    indirect=["store_server"],
)
def test_large_and_small_files_travel_with_and_without_checksums(
    store_settings: Store, bucket: str, tmp_path: Path, checksums: Checksums
) -> None:
    store = ObjectStore.open(store_settings.model_copy(update={"checksums": checksums}), max_attempts=2)
    contents = {"large": os.urandom(40 * MIB), "small": b"small", "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    store.upload_files({f"s3://{bucket}/files/{name}": tmp_path / name for name in contents})
    back = store.download_folder(f"s3://{bucket}/files", tmp_path / "back")
    arrived = {path.name: path.read_bytes() for path in back}
    assert arrived.keys() == contents.keys()
    assert all(arrived[name] == content for name, content in contents.items())
    assert store.read_range(f"s3://{bucket}/files/large", 33 * MIB, 10) == contents["large"][33 * MIB :][:10]


def test_unfinished_uploads_are_removed(store_server: StoreServer, store: ObjectStore, bucket: str) -> None:
    asker = Asker(store_server, bucket, open_client(store_server))
    for key in ("run/one", "run/two", "other/three"):
        asker.begin_upload(key)
    assert store.abort_uploads(f"s3://{bucket}/run") == 2
    assert store.abort_uploads(f"s3://{bucket}/run") == 0
    assert store.abort_uploads(f"s3://{bucket}/other") == 1


def test_what_is_missing_is_named(store: ObjectStore, bucket: str) -> None:
    with pytest.raises(ObjectMissing, match=rf"s3://{bucket}/nothing does not exist"):
        store.read_bytes(f"s3://{bucket}/nothing")
    for action in (store.read_bytes, store.list_objects, lambda uri: store.write_bytes(uri, b"")):
        with pytest.raises(ObjectMissing, match="Bucket 'no-such-bucket' does not exist"):
            action("s3://no-such-bucket/key")


# --- through ObjectStore: what only some do ---------------------------------------------------------------------


@on("versitygw", "moto")
def test_conditional_writes_hold(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/claim"
    assert store.write_bytes(uri, b"mine", only_if_absent=True)
    assert not store.write_bytes(uri, b"other", only_if_absent=True)
    version = store.read_version(uri)
    assert version is not None
    assert store.replace_bytes(uri, b"newer", etag=version[1])
    assert not store.replace_bytes(uri, b"late", etag=version[1])
    assert not store.delete_version(uri, version[1])
    assert store.read_bytes(uri) == b"newer"


@on("rclone")
def test_conditions_are_ignored(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/claim"
    assert store.write_bytes(uri, b"mine", only_if_absent=True)
    assert store.write_bytes(uri, b"other", only_if_absent=True)
    assert store.replace_bytes(uri, b"late", etag=OTHER_ETAG)
    assert store.read_bytes(uri) == b"late"
    assert store.delete_version(uri, OTHER_ETAG)
    assert not store.exists(uri)


# Not on moto, which looks for the object and writes it in two steps: nothing keeps a second writer from winning.
@pytest.mark.parametrize(
    ("store_server", "winners"),
    [pytest.param("versitygw", 1, id="versitygw"), pytest.param("rclone", 16, id="rclone")],
    indirect=["store_server"],
)
def test_so_many_of_sixteen_conditional_writers_win(store: ObjectStore, bucket: str, winners: int) -> None:
    uri = f"s3://{bucket}/claim"
    with ThreadPoolExecutor(16) as pool:
        won = pool.map(lambda n: store.write_bytes(uri, f"{n}".encode(), only_if_absent=True), range(16))
    assert list(won).count(True) == winners


@on("versitygw", "rclone")
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_refused(
    store_settings: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv(wrong, "of somebody else")
    store = ObjectStore.open(store_settings, max_attempts=2)
    for action in (store.read_bytes, store.list_objects, lambda uri: store.write_bytes(uri, b"")):
        with pytest.raises(StorageDenied, match=f"Bucket '{bucket}'"):
            action(f"s3://{bucket}/key")


@on("moto")
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_as_good_as_right_ones(
    store_settings: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv(wrong, "of somebody else")
    assert ObjectStore.open(store_settings).write_bytes(f"s3://{bucket}/key", b"")


@on("rclone")
def test_a_damaged_upload_is_accepted_and_seen_by_whoever_downloads_it(
    store_server: StoreServer, store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/{KEY}"
    Asker(store_server, bucket, open_client(store_server)).put(ChecksumCRC32=WRONG_CRC32)
    with pytest.raises(ObjectDamaged, match=uri):
        store.download_file(uri, tmp_path / "object")


@on("rclone")
@pytest.mark.parametrize("read", [ObjectStore.read_bytes, ObjectStore.read_version])
def test_a_damaged_upload_is_seen_by_whoever_reads_it(
    store_server: StoreServer, store: ObjectStore, bucket: str, read: Callable[[ObjectStore, str], object]
) -> None:
    Asker(store_server, bucket, open_client(store_server)).put(ChecksumCRC32=WRONG_CRC32)
    with pytest.raises(ObjectDamaged):
        read(store, f"s3://{bucket}/{KEY}")


# --- through ObjectStore: what it cannot do on rclone -----------------------------------------------------------


@on("rclone")
def test_no_uploads_can_be_removed_where_there_never_was_one(store: ObjectStore, bucket: str) -> None:
    """It answers NoSuchUpload then: it keeps uploads in memory, and so after each of its restarts."""
    assert store.abort_uploads(f"s3://{bucket}/run") == 0


@on("rclone")
def test_nothing_can_be_written_below_the_empty_object_by_which_consoles_show_a_folder(
    store_server: StoreServer, store: ObjectStore, bucket: str
) -> None:
    Asker(store_server, bucket, open_client(store_server)).put("run/", Body=b"")
    with pytest.raises(StorageUnavailable, match=f"Could not write s3://{bucket}/run/x.*InternalError"):
        store.write_bytes(f"s3://{bucket}/run/x", b"")


@on("rclone_https")
def test_nothing_can_be_written_by_https_unless_checksums_are_switched_off(
    store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    """A checksum behind the content means a content without a Content-Length."""
    (tmp_path / "file").write_bytes(b"x")
    uri = f"s3://{bucket}/object"
    for write in (lambda: store.write_bytes(uri, b"x"), lambda: store.upload_file(tmp_path / "file", uri)):
        with pytest.raises(UserError, match=rf"write {uri} \(MissingContentLength\).*WhenRequired"):
            write()
