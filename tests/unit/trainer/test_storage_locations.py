"""Names in the store: URIs, file names that would leave a folder, endpoints that serve credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.spec import Store
from finetune_trainer.errors import UserError
from finetune_trainer.storage import ObjectStore, S3Location
from finetune_trainer.storage.locations import safe_path


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/a/b", S3Location("bucket", "a/b")),
        ("s3://bucket/a/", S3Location("bucket", "a")),
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://bucket/a b#c?d", S3Location("bucket", "a b#c?d")),
    ],
)
def test_uris_are_split(uri: str, expected: S3Location) -> None:
    assert S3Location.parse(uri) == expected


@pytest.mark.parametrize("uri", ["http://bucket/a", "bucket/a", "s3:///a", ""])
def test_what_is_no_store_uri_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="is not an object-store URI"):
        S3Location.parse(uri)


@pytest.mark.parametrize("name", ["a.json", "sub/b.bin", "a..b", "...", ".hidden"])
def test_plain_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    assert safe_path(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "..", ".", "", "a//b", "a/", "./a", "..\\a", "a\0b"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="would leave the folder"):
        safe_path(tmp_path, name)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.170.2:80",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "100.100.100.200",
        "2852039166",
        "0xa9fea9fe",
    ],
)
def test_endpoints_that_serve_a_nodes_credentials_are_refused(host: str) -> None:
    with pytest.raises(UserError, match=r"store\.endpoint .* is never an object store"):
        ObjectStore.open(Store(endpoint=f"http://{host}"))


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9000", "http://10.0.0.1:9000", "http://no-such-host.invalid"]
)
def test_other_endpoints_are_accepted(endpoint: str) -> None:
    assert ObjectStore.open(Store(endpoint=endpoint)).endpoint == endpoint
