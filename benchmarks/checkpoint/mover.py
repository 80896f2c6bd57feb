"""One process that uploads a folder and downloads it again: by our own code, by tuned boto3, or by boto3 with CRT.

`python -m benchmarks.checkpoint.mover WHO ENDPOINT FOLDER BACK`. It prints seconds and memory above idle of both.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.builders.training_runs import BUCKET

_MIB = 1024 * 1024
_PREFIX = "moved"


def main(who: str, endpoint: str, folder: str, back: str) -> None:
    """Move everything there and back."""
    upload, download = _MOVERS[who](endpoint, Path(folder), Path(back))
    shutil.rmtree(back, ignore_errors=True)
    Path(back).mkdir()
    figures = {"upload": _watched(upload), "download": _watched(download)}
    shutil.rmtree(back)
    print(json.dumps(figures))


def _watched(action: Callable[[], None]) -> dict[str, float]:
    before, began = _resting_mib(), time.perf_counter()
    action()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "memoryMiB": max(0.0, _peak_mib() - before)}


def _resting_mib() -> float:
    # The peak is counted from now on.
    Path("/proc/self/clear_refs").write_text("5")
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() / _MIB


def _peak_mib() -> float:
    line = next(
        each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def _ours(endpoint: str, folder: Path, back: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    from finetune_api.layout import RunLayout
    from finetune_api.spec import Store
    from finetune_trainer.checkpoints import (
        CheckpointFacts,
        Place,
        commit_checkpoint,
        download_checkpoint,
        find_newest_checkpoint,
        upload_files,
    )
    from finetune_trainer.storage import ObjectStore

    store = ObjectStore.open(Store(endpoint=endpoint))
    layout = RunLayout(output_uri=f"s3://{BUCKET}/{_PREFIX}", name="run", uid="0123456789abcdef")
    facts = CheckpointFacts(
        step=1,
        epoch=0,
        loss=None,
        world_size=1,
        attempt=1,
        incarnation=1,
        model_digest="",
        dataset_digest="",
    )
    files = {path.name: path for path in sorted(folder.iterdir())}

    def upload() -> None:
        place = Place(layout, facts.step, facts.incarnation)
        commit_checkpoint(store, layout, facts, upload_files(store, place, files, lambda: False))

    def download() -> None:
        manifest = find_newest_checkpoint(store, layout).manifest
        assert manifest is not None
        download_checkpoint(store, layout, manifest, back)
        store.delete_folder(layout.output_uri)

    return upload, download


def _boto3(endpoint: str, folder: Path, back: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    from s3transfer.manager import TransferConfig, TransferManager

    client = _client(endpoint)
    names = sorted(path.name for path in folder.iterdir())
    config = TransferConfig(
        multipart_threshold=16 * _MIB, multipart_chunksize=16 * _MIB, max_request_concurrency=10
    )

    def upload() -> None:
        with TransferManager(client, config) as manager:
            futures = [manager.upload(str(folder / name), BUCKET, f"{_PREFIX}/{name}") for name in names]
            for future in futures:
                future.result()

    def download() -> None:
        with TransferManager(client, config) as manager:
            futures = [manager.download(BUCKET, f"{_PREFIX}/{name}", str(back / name)) for name in names]
            for future in futures:
                future.result()
        _forget(client, names)

    return upload, download


def _crt(endpoint: str, folder: Path, back: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    import botocore.session
    from botocore.config import Config
    from s3transfer.crt import (
        BotocoreCRTCredentialsWrapper,
        BotocoreCRTRequestSerializer,
        CRTTransferManager,
        create_s3_crt_client,
    )

    session = botocore.session.get_session()
    client = _client(endpoint)
    names = sorted(path.name for path in folder.iterdir())
    wrapper = BotocoreCRTCredentialsWrapper(session.get_credentials())
    crt = create_s3_crt_client(
        "us-east-1",
        crt_credentials_provider=wrapper.to_crt_credentials_provider(),
        use_ssl=False,
        part_size=16 * _MIB,
    )
    serializer = BotocoreCRTRequestSerializer(
        session,
        {
            "endpoint_url": endpoint,
            "region_name": "us-east-1",
            "config": Config(s3={"addressing_style": "path"}),
        },
    )

    def upload() -> None:
        with CRTTransferManager(crt, serializer) as manager:
            futures = [manager.upload(str(folder / name), BUCKET, f"{_PREFIX}/{name}") for name in names]
            for future in futures:
                future.result()

    def download() -> None:
        with CRTTransferManager(crt, serializer) as manager:
            futures = [manager.download(BUCKET, f"{_PREFIX}/{name}", str(back / name)) for name in names]
            for future in futures:
                future.result()
        _forget(client, names)

    return upload, download


def _client(endpoint: str) -> Any:  # noqa: ANN401 (botocore makes its clients at run time)
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        # Signing the content would hash it.
        config=Config(
            s3={"addressing_style": "path", "payload_signing_enabled": False}, max_pool_connections=16
        ),
    )


def _forget(client: Any, names: list[str]) -> None:  # noqa: ANN401
    for start in range(0, len(names), 1000):
        keys = [{"Key": f"{_PREFIX}/{name}"} for name in names[start : start + 1000]]
        client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})


_MOVERS = {"ours": _ours, "boto3": _boto3, "crt": _crt}

if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    # CRT's threads are not waited for.
    os._exit(0)
