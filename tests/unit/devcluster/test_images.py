"""How an image is taken apart for a node, and how the pause image is put together."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from devcluster.buildah_store import Blob, Image, layer_chain, parse_image
from devcluster.errors import DevClusterError
from devcluster.images import build_index, chain_identifiers, check_space, missing_layers, snapshot_folder
from devcluster.pause_image import build_image_archive

MANIFEST = b'{"mediaType": "m"}'
BASE, CODE = Blob("sha256:aa", 100), Blob("sha256:bb", 10)


def make_image(*layers: Blob) -> Image:
    return Image("localhost/x:dev", "id", MANIFEST, Blob("sha256:cc", 5), layers)


def make_manifest(*digests: str) -> str:
    return json.dumps(
        {
            "config": {"digest": "sha256:cc", "size": 5},
            "layers": [{"digest": digest, "size": 7} for digest in digests],
        }
    )


def test_only_layers_that_a_node_lacks_are_sent_and_each_once() -> None:
    image = make_image(BASE, CODE, CODE)
    assert missing_layers(image, []) == [BASE, CODE]
    assert missing_layers(image, ["sha256:aa", "sha256:dd"]) == [CODE]


def test_snapshots_are_named_as_the_image_specification_says() -> None:
    second = hashlib.sha256(b"sha256:aa sha256:bb").hexdigest()
    third = hashlib.sha256(f"sha256:{second} sha256:aa".encode()).hexdigest()
    assert chain_identifiers([BASE, CODE, BASE]) == ["sha256:aa", f"sha256:{second}", f"sha256:{third}"]


def test_an_image_keeps_its_name_and_its_manifest() -> None:
    descriptor = json.loads(build_index(make_image(BASE)))["manifests"][0]
    assert descriptor["annotations"] == {"io.containerd.image.name": "localhost/x:dev"}
    assert descriptor["digest"] == f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        pytest.param([{"Source": "/s/1/fs", "Options": ["rw", "rbind"]}], "/s/1/fs", id="the lowest layer"),
        pytest.param(
            [{"Source": "overlay", "Options": ["workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs"]}],
            "/s/2/fs",
            id="a layer on others",
        ),
    ],
)
def test_the_folder_of_a_new_snapshot_is_read(mounts: list[dict[str, object]], expected: str) -> None:
    assert snapshot_folder(json.dumps(mounts)) == Path(expected)


def test_a_disk_that_would_fill_up_is_refused(tmp_path: Path) -> None:
    check_space(make_image(), tmp_path, [])
    with pytest.raises(DevClusterError, match=r"loading localhost/x:dev needs \d+\.\d GiB, and .* free"):
        check_space(make_image(), tmp_path, [Blob("sha256:ee", 10**15)])


def test_an_image_of_compressed_layers_is_refused_with_the_way_out() -> None:
    assert parse_image("x", "id", make_manifest("sha256:aa"), ["sha256:aa"]).layers == (Blob("sha256:aa", 7),)
    with pytest.raises(DevClusterError, match=r"x was pulled from a registry.*FROM x"):
        parse_image("x", "id", make_manifest("sha256:compressed"), ["sha256:aa"])


def test_the_stores_layers_are_followed_from_the_top_and_compared_with_the_image() -> None:
    layers = [
        {"id": "top", "parent": "low", "diff-digest": "sha256:bb"},
        {"id": "other", "parent": "low", "diff-digest": "sha256:ff"},
        {"id": "low", "diff-digest": "sha256:aa"},
    ]
    assert layer_chain(layers, "top", make_image(BASE, CODE)) == ["low", "top"]
    with pytest.raises(DevClusterError, match="at odds with itself about the layers of localhost/x:dev"):
        layer_chain(layers, "other", make_image(BASE, CODE))


def test_the_pause_image_is_whole(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"program")
    with tarfile.open(fileobj=io.BytesIO(build_image_archive(program, "localhost/pause:1"))) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    manifest = json.loads(files[f"blobs/sha256/{_only_digest(files['index.json'])}"])
    layer = files[f"blobs/sha256/{manifest['layers'][0]['digest'].removeprefix('sha256:')}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        assert archive.getmember("pause").mode == 0o755


def _only_digest(index: bytes) -> str:
    (descriptor,) = json.loads(index)["manifests"]
    return str(descriptor["digest"]).removeprefix("sha256:")
