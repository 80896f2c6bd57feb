"""Names in the store: what a URI means, and which keys may become file names."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from finetune_trainer.errors import UserError

# Where clouds serve instance credentials. The link-local ranges are added by `ipaddress`.
_METADATA_ADDRESSES = frozenset({"fd00:ec2::254", "100.100.100.200"})


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key (or key prefix), without slashes at either end."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> S3Location:
        """Split `s3://bucket/key`; the key may be empty."""
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not parts.netloc:
            raise UserError(f"'{uri}' is not an object-store URI. Write s3://bucket/key.")
        return cls(bucket=parts.netloc, key=uri.removeprefix(f"s3://{parts.netloc}").strip("/"))

    @property
    def folder_prefix(self) -> str:
        """The prefix that all keys of this folder share."""
        return f"{self.key}/" if self.key else ""


@dataclass(frozen=True)
class ObjectInfo:
    """One listed object; `name` is its key relative to the prefix that was listed."""

    uri: str
    name: str
    size_bytes: int
    etag: str


def safe_path(directory: Path, name: str) -> Path:
    """The file below `directory` for an object's name. Raises UserError for a name that would leave it."""
    parts = PurePosixPath(name).parts
    is_plain = bool(parts) and "/".join(parts) == name and not ({"..", ".", "/"} & set(parts))
    if not is_plain or "\\" in name or "\0" in name:
        raise UserError(
            f"The object name {name!r} would leave the folder {directory} or is not a plain path. "
            "Rename or remove the object in the store."
        )
    return directory.joinpath(*parts)


def refuse_metadata_endpoint(endpoint: str) -> None:
    """Raise UserError when the endpoint is, or resolves to, an address that serves a node's credentials."""
    address = metadata_address_of(endpoint)
    if address is not None:
        raise UserError(
            f"store.endpoint {endpoint} points at {address}, a link-local or metadata address, which is never an "
            "object store. Set store.endpoint to the store's own URL."
        )


def metadata_address_of(url: str) -> str | None:
    """The link-local or metadata address that a URL's host is, or resolves to; None where it is none."""
    host = urlsplit(url).hostname or ""
    for address in _addresses(host):
        if address.is_link_local or str(address) in _METADATA_ADDRESSES:
            return str(address)
    return None


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # A name that does not resolve is reported by the first request, with its retries.
    return [_plain_address(str(sockaddr[0])) for *_, sockaddr in found]


def _plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.split("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
