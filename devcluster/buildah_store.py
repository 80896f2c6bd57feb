"""Reads images out of buildah's local store: what they consist of, where their layers lie, and their content.

Layers stay uncompressed: they only travel to a containerd on the same machine.
"""

import json
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from devcluster.commands import run
from devcluster.errors import DevClusterError

MIB = 1024**2


@dataclass(frozen=True)
class Blob:
    """A piece of an image, by the digest of its uncompressed content."""

    digest: str
    size_bytes: int

    @property
    def hexadecimal(self) -> str:
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True)
class Image:
    """An image as buildah stores it."""

    name: str
    identifier: str
    manifest: bytes
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def size_bytes(self) -> int:
        return sum(layer.size_bytes for layer in self.layers)


def inspect_image(name: str) -> Image:
    """Read what an image consists of."""
    try:
        answer = json.loads(run("buildah", "inspect", "--type", "image", name))
    except DevClusterError as error:
        raise DevClusterError(
            f"image {name} is not in buildah's local store. Build it first (`python -m devcluster build-images`), "
            f"or see `buildah images`. ({error})"
        ) from error
    return parse_image(name, answer["FromImageID"], answer["Manifest"], answer["OCIv1"]["rootfs"]["diff_ids"])


def parse_image(name: str, identifier: str, manifest_text: str, layer_digests: list[str]) -> Image:
    """Parse an image's manifest; refuse one whose layers are stored under digests of compressed content."""
    manifest = json.loads(manifest_text)
    layers = tuple(Blob(each["digest"], each["size"]) for each in manifest["layers"])
    if [layer.digest for layer in layers] != layer_digests:
        raise DevClusterError(
            f"image {name} was pulled from a registry, with compressed layers. Load an image that was built on this "
            f"machine; `buildah build` with the one line `FROM {name}` makes one."
        )
    config = Blob(manifest["config"]["digest"], manifest["config"]["size"])
    return Image(name, identifier, manifest_text.encode(), config, layers)


def find_layer_folders(image: Image) -> list[Path] | None:
    """Find the unpacked layers, lowest first; None where the store does not keep them as plain overlay folders."""
    store = json.loads(run("buildah", "info"))["store"]
    # With metacopy or redirected folders a layer's folder means nothing outside of buildah's own mounts.
    if store["GraphDriverName"] != "overlay" or store["GraphStatus"].get("Native Overlay Diff") != "true":
        return None
    root = Path(store["GraphRoot"])
    images = json.loads((root / "overlay-images/images.json").read_text())
    layers = json.loads((root / "overlay-layers/layers.json").read_text())
    top = next(each["layer"] for each in images if each["id"] == image.identifier)
    return [root / "overlay" / identifier / "diff" for identifier in layer_chain(layers, top, image)]


def layer_chain(layers: list[dict[str, str]], top: str, image: Image) -> list[str]:
    """Order the store's layers of an image, lowest first, and make sure that they are the image's."""
    known = {layer["id"]: layer for layer in layers}
    chain: list[dict[str, str]] = []
    identifier: str | None = top
    while identifier:
        chain.insert(0, known[identifier])
        identifier = known[identifier].get("parent")
    if [layer["diff-digest"] for layer in chain] != [layer.digest for layer in image.layers]:
        raise DevClusterError(
            f"buildah's store is at odds with itself about the layers of {image.name}; rebuild it"
        )
    return [layer["id"] for layer in chain]


def read_blobs(image: Image, wanted: set[str]) -> Iterator[tuple[Blob, IO[bytes]]]:
    """Yield the configuration and the wanted layers, each with a stream that is valid until the next one.

    The whole image passes through a pipe: a file would be one more copy of it on the disk.
    """
    files = {f"{layer.hexadecimal}.tar": layer for layer in image.layers if layer.digest in wanted}
    files[f"{image.config.hexadecimal}.json"] = image.config
    with _pushing(image.name) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=MIB) as archive:
        for entry in archive:
            blob = files.pop(entry.name, None)
            content = archive.extractfile(entry) if blob is not None else None
            if blob is not None and content is not None:
                yield blob, content
    if files:
        raise DevClusterError(f"buildah's archive of {image.name} lacks {', '.join(sorted(files))}")


@contextmanager
def _pushing(name: str) -> Iterator[IO[bytes]]:
    with subprocess.Popen(
        ["buildah", "push", "--quiet", name, "docker-archive:/dev/stdout"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        yield process.stdout
        process.stdout.read()
        words = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise DevClusterError(f"buildah could not read {name} out of its store: {words[-1000:]}")
