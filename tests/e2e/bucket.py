"""The bucket that the jobs read from and write to, as any S3 client sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.quickstart.environment import S3Store
from examples.quickstart.run import ensure_bucket, s3_client


@dataclass(frozen=True)
class Bucket:
    """A bucket by name, with a plain boto3 client."""

    client: Any
    name: str

    def uri(self, key: str) -> str:
        """`s3://` and so on."""
        return f"s3://{self.name}/{key}"

    def key(self, uri: str) -> str:
        """The key within the bucket."""
        assert uri.startswith(self.uri("")), uri
        return uri.removeprefix(self.uri(""))

    def put(self, key: str, content: bytes) -> str:
        """Write an object; its URI."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)
        return self.uri(key)

    def keys(self, uri: str) -> set[str]:
        """Keys of the objects below a URI."""
        return set(self._list(self.key(uri).rstrip("/") + "/"))

    def read(self, uri: str) -> bytes:
        """An object's content."""
        content: bytes = self.client.get_object(Bucket=self.name, Key=self.key(uri))["Body"].read()
        return content

    def read_lines(self, uri: str) -> list[dict[str, Any]]:
        """The objects of a JSON Lines file."""
        return [json.loads(line) for line in self.read(uri).splitlines()]

    def download(self, uri: str, folder: Path) -> Path:
        """Copy everything below a URI into a new folder, as `aws s3 sync` does."""
        folder.mkdir()
        for key in self.keys(uri):
            self.client.download_file(self.name, key, str(folder / key.rpartition("/")[2]))
        return folder

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Every object of the bucket, by URI."""
        for key in self._list(""):
            yield self.uri(key), self.read(self.uri(key))

    def _list(self, prefix: str) -> Iterator[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        for page in pages:
            yield from (item["Key"] for item in page.get("Contents", []))


def fill_bucket(store: S3Store, name: str, base: Path) -> Bucket:
    """A bucket with the base model at `base` and the rows that all jobs learn."""
    bucket = Bucket(s3_client(store), name)
    ensure_bucket(bucket.client, bucket.name)
    for file in base.iterdir():
        bucket.put(f"base/{file.name}", file.read_bytes())
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in training_rows())
    bucket.put("data/train.jsonl", lines.encode())
    return bucket


def training_rows(count: int = 64) -> Iterator[dict[str, Any]]:
    """Rows of different lengths, in two languages."""
    for number in range(count):
        question = (
            f"Where is parcel {number}? " * (1 + number % 4)
            if number % 2
            else f"订单{number}在哪里？" * (1 + number % 3)
        )
        answer = f"Parcel {number} is on its way." if number % 2 else f"订单{number}正在路上。"
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
