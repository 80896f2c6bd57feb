"""What a failed request means for the job: refused, missing, misconfigured, or the store is away for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from s3transfer.exceptions import RetriesExceededError
from urllib3.exceptions import HTTPError

from finetune_trainer.disk_errors import is_of_local_disk
from finetune_trainer.errors import (
    ObjectDamaged,
    ObjectMissing,
    StageError,
    StorageDenied,
    StorageUnavailable,
    UserError,
)
from finetune_trainer.storage.locations import S3Location

_DENIED_CODES = frozenset(
    {
        "401",
        "403",
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "XAdminUserNotFound",  # versitygw's word, with status 404, for an access key that it does not know
    }
)
_MISSING_CODES = frozenset({"404", "NoSuchKey", "NotFound"})
_WRONG_REGION_CODES = frozenset(
    {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
)
# What stores answer that cannot read checksums in headers or trailers. Source: boto/boto3#4392.
_CHECKSUM_CODES = frozenset(
    {"MissingContentLength", "MissingContentMD5", "XAmzContentSHA256Mismatch", "InvalidTrailer"}
)
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
# Somebody makes room, or the run's own older checkpoints go. Ceph answers 403, MinIO 400 or 507.
_FULL_CODES = frozenset({"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"})


@dataclass(frozen=True)
class StoreDescription:
    """How messages speak of the store."""

    endpoint: str
    secret_name: str | None

    @property
    def credentials(self) -> str:
        """Where the keys come from."""
        if self.secret_name is None:
            return "the pod's workload identity (no credentialsSecretRef is set)"
        return f"Secret '{self.secret_name}'"


@contextmanager
def translated(store: StoreDescription, uri: str, action: str) -> Iterator[None]:
    """Turn what boto3 raises about `action` (read, write, list, delete) on `uri` into a StageError."""
    try:
        yield
    except ClientError as error:
        raise _of_response(store, S3Location.parse(uri), action, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StorageDenied(
            f"No access keys for {store.endpoint}: {store.credentials} gives none. "
            "Set credentialsSecretRef of the store to a Secret with the keys."
        ) from error
    except FlexibleChecksumError as error:
        raise ObjectDamaged(
            f"{uri} at {store.endpoint} is damaged: its bytes do not have the checksum it was stored with. "
            "If this happens again, put the object there anew."
        ) from error
    except ParamValidationError as error:
        raise UserError(f"The store's client refuses {uri}: {error} Correct the URI.") from error
    except SSLError as error:
        raise UserError(
            f"The certificate of {store.endpoint} is not trusted ({error}). Put the certificates of its authority into "
            "a ConfigMap and name it in store.caBundleRef, or use an endpoint with a certificate of a known authority."
        ) from error
    except (BotoCoreError, RetriesExceededError, HTTPError, OSError) as error:
        if is_of_local_disk(error) or (isinstance(error, OSError) and error.filename is not None):
            raise  # A local file, not the store.
        raise StorageUnavailable(
            f"Could not {action} {uri}: {store.endpoint} does not answer ({_short(error)}). "
            "Check that the store is up and that store.endpoint is right; the stage is tried again."
        ) from error


def _of_response(
    store: StoreDescription, location: S3Location, action: str, error: ClientError
) -> StageError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    uri = f"s3://{location.bucket}/{location.key}".rstrip("/")
    if code == "NoSuchBucket":
        return ObjectMissing(
            f"Bucket '{location.bucket}' does not exist at {store.endpoint}. Create the bucket or correct {uri}."
        )
    if code in _WRONG_REGION_CODES:
        return UserError(
            f"{store.endpoint} says that bucket '{location.bucket}' belongs to another region ({code}). "
            "Set store.region."
        )
    if code in _MISSING_CODES or (status == 404 and not code):
        return ObjectMissing(
            f"{uri} does not exist at {store.endpoint}. Put the object there or correct the URI."
        )
    if status >= 500 or status == 429 or code in _TRANSIENT_CODES | _FULL_CODES:
        return StorageUnavailable(
            f"Could not {action} {uri}: {store.endpoint} answers {code or status}, also after retries. "
            "Check the store; the stage is tried again."
        )
    if code in _DENIED_CODES or status in (401, 403):
        return StorageDenied(_denied_sentence(store, location, action, code or str(status)))
    if code in _CHECKSUM_CODES:
        return UserError(
            f"{store.endpoint} refuses to {action} {uri} ({code}): it does not know the checksums that are sent along. "
            "Set store.checksums: WhenRequired."
        )
    return UserError(
        f"{store.endpoint} refuses to {action} {uri}: {_short(error)} Correct the URI or the store's settings."
    )


def _denied_sentence(store: StoreDescription, location: S3Location, action: str, code: str) -> str:
    return (
        f"Bucket '{location.bucket}' at {store.endpoint} refuses to {action} "
        f"'{location.key or '/'}' ({code}). Check the access keys in {store.credentials} "
        "and what they may do in the bucket."
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + " …"
