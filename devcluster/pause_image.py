"""Makes the image of a pod's first container, which does nothing but hold the pod's namespaces.

It is one static program, packed by hand: a node must be able to run pods where no registry can be reached.
"""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

from devcluster.node import Node

IMAGE_NAME_ANNOTATION = "io.containerd.image.name"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def ensure_pause_image(node: Node, program: Path, name: str) -> None:
    """Load the image of a pod's first container, which holds its namespaces, unless it is there."""
    if name not in node.ctr("images", "ls", "--quiet").split():
        node.ctr("images", "import", "-", stdin=build_image_archive(program, name))


def build_image_archive(program: Path, name: str) -> bytes:
    """Pack one static executable as an OCI image archive."""
    layer = _pack({"pause": (program.read_bytes(), 0o755)})
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config),
            "layers": [_descriptor(LAYER_TYPE, layer)],
        }
    ).encode()
    index = {
        "schemaVersion": 2,
        "manifests": [{**_descriptor(MANIFEST_TYPE, manifest), "annotations": {IMAGE_NAME_ANNOTATION: name}}],
    }
    blobs = {
        f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": (blob, 0o644)
        for blob in (layer, config, manifest)
    }
    return _pack(
        {
            "oci-layout": (b'{"imageLayoutVersion": "1.0.0"}', 0o644),
            "index.json": (json.dumps(index).encode(), 0o644),
            **blobs,
        }
    )


def _pack(files: dict[str, tuple[bytes, int]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
