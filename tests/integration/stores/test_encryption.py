"""store.encryption reaches the store with every object, whole or in parts. moto shows what it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import OutputStore, Store
from finetune_trainer.storage import ObjectStore
from tests.integration.stores.test_servers import on
from tests.stand_ins.other_stores import StoreServer, open_client

LARGE_BYTES = 40 * 1024 * 1024


@on("moto")
@pytest.mark.parametrize(
    ("encryption", "expected"),
    [
        pytest.param("AES256", ("AES256", None), id="the store's key"),
        pytest.param("KMS", ("aws:kms", None), id="the bucket's key of its key management service"),
        pytest.param("KMS:alias/models", ("aws:kms", "alias/models"), id="a key by name"),
    ],
)
def test_what_is_written_is_encrypted(
    encryption: str,
    expected: tuple[str, str | None],
    store_server: StoreServer,
    store_settings: Store,
    bucket: str,
    tmp_path: Path,
) -> None:
    store = ObjectStore.open(OutputStore(**dict(store_settings), encryption=encryption))
    (tmp_path / "large").write_bytes(bytes(LARGE_BYTES))
    store.write_bytes(f"s3://{bucket}/small", b"x")
    store.upload_file(tmp_path / "large", f"s3://{bucket}/large")
    client: Any = open_client(store_server)
    for key in ("small", "large"):
        found = client.head_object(Bucket=bucket, Key=key)
        algorithm, key_id = expected
        assert found["ServerSideEncryption"] == algorithm
        assert key_id is None or found["SSEKMSKeyId"] == key_id
    assert store.read_bytes(f"s3://{bucket}/small") == b"x"
