"""Brings images from buildah's local store into the nodes' containerd, only the layers that a node lacks.

Where both lie on one file system, a layer is a folder of hard links: the trainer's 6 GB take two seconds and no disk
space. Elsewhere the layers are streamed.
"""

import base64
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from devcluster import buildah_store
from devcluster.buildah_store import MIB, Blob, Image
from devcluster.commands import run, succeeds
from devcluster.console import Console
from devcluster.errors import DevClusterError
from devcluster.node import Node
from devcluster.pause_image import IMAGE_NAME_ANNOTATION, MANIFEST_TYPE

GIB = 1024**3
# What has to stay free on the disk besides the image itself.
RESERVE_BYTES = 2 * GIB


def load_image(name: str, nodes: Sequence[Node], console: Console) -> None:
    """Bring one image to every node that does not have exactly this one."""
    image = buildah_store.inspect_image(name)
    folders = buildah_store.find_layer_folders(image)
    for node in nodes:
        if _has_image(node, image):
            console.say(f"  {name}: {node.name} has it")
        elif folders is not None and _can_link(folders, node):
            with console.step(f"linking {name} into {node.name} ({image.size_bytes / MIB:.0f} MiB)"):
                _link_image(image, folders, node)
        else:
            missing = missing_layers(image, node.ctr("content", "ls", "--quiet").split())
            check_space(image, node.folders.containerd, missing)
            with console.step(
                f"copying {name} into {node.name}: {len(missing)} of {len(image.layers)} layers"
            ):
                _stream_image(image, {layer.digest for layer in missing}, node)


def missing_layers(image: Image, digests: Sequence[str]) -> list[Blob]:
    """List the layers, without repetition, that are not among the blobs of a node."""
    present = set(digests)
    return [layer for layer in dict.fromkeys(image.layers) if layer.digest not in present]


def check_space(image: Image, folder: Path, missing: Sequence[Blob]) -> None:
    """Refuse to fill the disk: containerd keeps a layer as it came and unpacked."""
    needed = 2 * sum(layer.size_bytes for layer in missing) + RESERVE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DevClusterError(
            f"loading {image.name} needs {needed / GIB:.1f} GiB, and {folder} has {free / GIB:.1f} GiB free. "
            "Free some: `buildah rmi --prune` removes images without a name."
        )


def chain_identifiers(layers: Sequence[Blob]) -> list[str]:
    """Name the snapshot that each layer gives on top of those below it, as the OCI image specification does."""
    identifiers: list[str] = []
    for layer in layers:
        below = identifiers[-1] if identifiers else None
        identifiers.append(layer.digest if below is None else _digest(f"{below} {layer.digest}".encode()))
    return identifiers


def build_index(image: Image) -> bytes:
    """Write the index of an archive with one image, by the name that pods will call it."""
    descriptor = {
        "mediaType": json.loads(image.manifest).get("mediaType", MANIFEST_TYPE),
        "digest": _digest(image.manifest),
        "size": len(image.manifest),
        "annotations": {IMAGE_NAME_ANNOTATION: image.name},
    }
    return json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode()


def snapshot_folder(mounts: str) -> Path:
    """Read from containerd's answer where the content of a new snapshot has to be put."""
    mount = json.loads(mounts)[0]
    upper = [option for option in mount["Options"] if option.startswith("upperdir=")]
    return Path(upper[0].removeprefix("upperdir=") if upper else mount["Source"])


def _has_image(node: Node, image: Image) -> bool:
    lines = node.ctr("images", "ls", f"name=={image.name}").splitlines()[1:]
    return any(_digest(image.manifest) in line.split() for line in lines)


def _can_link(folders: Sequence[Path], node: Node) -> bool:
    # Tried, not derived: one file system seen through two mounts refuses hard links too.
    probe, link = folders[0].with_name("link"), node.folders.containerd / "link-probe"
    possible = succeeds(*_beside_mount(folders[0].parents[1], "ln", "--force", probe, link))
    link.unlink(missing_ok=True)
    return possible


def _beside_mount(mount_point: Path, *command: str | Path) -> tuple[str | Path, ...]:
    # While buildah runs, its overlay folder is mounted on itself, which is a border for hard links. In a mount
    # namespace of its own the command does not see that mount, and nobody else sees that it is gone.
    script = 'umount --lazy "$1" 2>/dev/null; shift; exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh", mount_point, *command)


def _link_image(image: Image, folders: Sequence[Path], node: Node) -> None:
    identifiers = chain_identifiers(image.layers)
    present = {line.split()[0] for line in node.ctr("snapshots", "ls").splitlines()[1:]}
    created = []
    for number, (identifier, folder) in enumerate(zip(identifiers, folders, strict=True)):
        if identifier not in present:
            _link_layer(node, folder, identifier, identifiers[number - 1] if number else None)
            created.append(identifier)
    node.ctr("images", "import", "-", stdin=_pack_metadata(image, folders))
    for identifier in created:
        # The image holds its snapshots now; the mark that kept them until here would keep them for ever.
        node.ctr("snapshots", "label", identifier, "containerd.io/gc.root=")


def _link_layer(node: Node, folder: Path, identifier: str, below: str | None) -> None:
    key = f"devcluster-{identifier}"
    succeeds(*node.ctr_command("snapshots", "rm", key))
    mounts = node.ctr("snapshots", "prepare", "--mounts", key, *([below] if below else []))
    copy = ("cp", "--archive", "--link", f"{folder}/.", snapshot_folder(mounts))
    run(*_beside_mount(folder.parents[1], *copy))
    node.ctr("snapshots", "commit", identifier, key)


def _pack_metadata(image: Image, folders: Sequence[Path]) -> bytes:
    # containerd asks for a layer's blob only where its snapshot is missing.
    store = folders[0].parents[2]
    name = f"={base64.b64encode(image.config.digest.encode()).decode()}"
    config = (store / "overlay-images" / image.identifier / name).read_bytes()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        _add_blob(archive, image.config, io.BytesIO(config))
        _add_manifest(archive, image)
    return stream.getvalue()


def _stream_image(image: Image, wanted: set[str], node: Node) -> None:
    with node.importing() as target, tarfile.open(fileobj=target, mode="w|", bufsize=MIB) as archive:
        for blob, content in buildah_store.read_blobs(image, wanted):
            _add_blob(archive, blob, content)
        _add_manifest(archive, image)


def _add_manifest(archive: tarfile.TarFile, image: Image) -> None:
    manifest = Blob(_digest(image.manifest), len(image.manifest))
    _add_blob(archive, manifest, io.BytesIO(image.manifest))
    for path, content in (
        ("index.json", build_index(image)),
        ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
    ):
        _add(archive, path, len(content), io.BytesIO(content))


def _add_blob(archive: tarfile.TarFile, blob: Blob, content: IO[bytes]) -> None:
    _add(archive, f"blobs/sha256/{blob.hexadecimal}", blob.size_bytes, content)


def _add(archive: tarfile.TarFile, path: str, size_bytes: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size_bytes, 0o644
    archive.addfile(entry, content)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
