"""What a store's answer means for the job."""

from __future__ import annotations

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import ProtocolError

from finetune_trainer.errors import ObjectMissing, StageError, StorageDenied, StorageUnavailable, UserError
from finetune_trainer.storage.failures import StoreDescription, translated

STORE = StoreDescription("http://s3.example", "s3-credentials")
URI = "s3://models/base/config.json"


def answer(code: str, status: int) -> ClientError:
    response = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetObject")


CASES: dict[str, tuple[Exception, type[StageError]]] = {
    "access denied": (answer("AccessDenied", 403), StorageDenied),
    "a 403 without a body": (answer("403", 403), StorageDenied),
    "an unknown code with 403": (answer("Nonsense", 403), StorageDenied),
    "an expired token": (answer("ExpiredToken", 400), StorageDenied),
    "a clock that is wrong": (answer("RequestTimeTooSkewed", 403), StorageDenied),
    "versitygw's unknown user": (answer("XAdminUserNotFound", 404), StorageDenied),
    "no credentials at all": (NoCredentialsError(), StorageDenied),
    "a missing key": (answer("NoSuchKey", 404), ObjectMissing),
    "a 404 without a body": (answer("404", 404), ObjectMissing),
    "a missing bucket": (answer("NoSuchBucket", 404), ObjectMissing),
    "another region": (answer("PermanentRedirect", 301), UserError),
    "a request the store does not understand": (answer("InvalidArgument", 400), UserError),
    "a certificate that is not trusted": (SSLError(endpoint_url="https://s3", error="x"), UserError),
    "a server error": (answer("InternalError", 500), StorageUnavailable),
    "an unknown code with 502": (answer("Nonsense", 502), StorageUnavailable),
    "throttling": (answer("SlowDown", 503), StorageUnavailable),
    "too many requests": (answer("TooManyRequests", 429), StorageUnavailable),
    "a conflict of conditional writes": (answer("ConditionalRequestConflict", 409), StorageUnavailable),
    "a quota that is used up, as Ceph says it": (answer("QuotaExceeded", 403), StorageUnavailable),
    "a quota that is used up, as MinIO says it": (
        answer("XMinioAdminBucketQuotaExceeded", 400),
        StorageUnavailable,
    ),
    "a full disk": (answer("XMinioStorageFull", 507), StorageUnavailable),
    "nobody listens": (EndpointConnectionError(endpoint_url="http://s3"), StorageUnavailable),
    "no connection in time": (ConnectTimeoutError(endpoint_url="http://s3"), StorageUnavailable),
    "no answer in time": (ReadTimeoutError(endpoint_url="http://s3"), StorageUnavailable),
    "a connection that breaks off": (ProtocolError("broken"), StorageUnavailable),
    "a connection that is reset": (ConnectionResetError("reset"), StorageUnavailable),
}


@pytest.mark.parametrize("case", CASES)
def test_failures_are_told_apart(case: str) -> None:
    error, expected = CASES[case]
    with pytest.raises(StageError) as caught, translated(STORE, URI, "read"):
        raise error
    assert type(caught.value) is expected
    assert caught.value.message.endswith((".", "again."))


def test_without_a_secret_the_workload_identity_is_named() -> None:
    with (
        pytest.raises(StorageDenied, match="the pod's workload identity"),
        translated(StoreDescription("http://s3.example", None), URI, "read"),
    ):
        raise answer("AccessDenied", 403)


def test_an_error_of_a_local_file_is_not_blamed_on_the_store() -> None:
    with pytest.raises(FileNotFoundError), translated(STORE, URI, "write"):
        raise FileNotFoundError(2, "No such file or directory", "/work/x")
