"""Builds the project's images with buildah, each only when one of the files that go into it has changed.

The machine's certificates and package settings are mounted during the build and leave no trace in the image.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devcluster.base_image import ensure_base_image
from devcluster.commands import run, succeeds
from devcluster.console import Console
from devcluster.preflight import IMAGE_PACKAGES, check_free_disk, check_root, ensure_packages

DIGEST_LABEL = "dev.finetune.build-inputs"
# Mounted read-only where the machine has them, for package indexes behind a proxy or a private authority.
MACHINE_SETTINGS = ("/etc/ssl/certs", "/etc/pip.conf")
UV_CACHE_IN_BUILD = "/mnt/uv-cache"
FREE_GIB = 20


@dataclass(frozen=True)
class ImageBuild:
    """One image of the project."""

    name: str
    containerfile: str
    target: str | None = None


IMAGES = (
    ImageBuild("localhost/finetune-operator:dev", "images/operator/Containerfile"),
    ImageBuild("localhost/finetune-trainer-prepare:dev", "images/trainer/Containerfile", "prepare"),
    ImageBuild("localhost/finetune-trainer:dev", "images/trainer/Containerfile", "trainer"),
)


def ensure_images(repository: Path, console: Console) -> None:
    """Build every image whose inputs have changed."""
    check_root("building images")
    ensure_packages(IMAGE_PACKAGES, console)
    base = os.environ.get("FINETUNE_BASE_IMAGE") or ensure_base_image(console)
    for build in IMAGES:
        _ensure_image(build, repository, base, console)


def _ensure_image(build: ImageBuild, repository: Path, base: str, console: Console) -> None:
    digest = digest_inputs(build, repository, _identify(base))
    existing = _read_label(build.name)
    if existing == digest:
        console.say(f"  {build.name}: unchanged")
        return
    if existing is None:
        check_free_disk(Path("/var/lib/containers"), FREE_GIB, "building the images")
    reason = "there is none" if existing is None else "its inputs have changed"
    with console.step(f"building {build.name} ({reason})"):
        run(*build_command(build, repository, base, digest, machine_mounts()))


def build_command(
    build: ImageBuild, repository: Path, base: str, digest: str, volumes: list[str]
) -> tuple[str | Path, ...]:
    """Write buildah's command line."""
    return (
        *("buildah", "build", "--layers", "--isolation", "chroot", "--quiet"),
        *("--build-arg", f"BASE={base}"),
        *(argument for volume in volumes for argument in ("--volume", volume)),
        *("--label", f"{DIGEST_LABEL}={digest}"),
        *("--file", repository / build.containerfile),
        *(("--target", build.target) if build.target else ()),
        *("--tag", build.name),
        repository,
    )


def digest_inputs(build: ImageBuild, repository: Path, base: str) -> str:
    """Digest everything that decides what is in an image: the recipe, the base, and each file that is copied."""
    recipe = (repository / build.containerfile).read_text()
    digest = hashlib.sha256(json.dumps([recipe, base, build.target]).encode())
    for source in copied_sources(recipe):
        for path in _files_below(repository / source):
            digest.update(f"{path.relative_to(repository)}\0{path.stat().st_mode & 0o111}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def copied_sources(recipe: str) -> list[str]:
    """List what the COPY lines of a Containerfile take from the build context."""
    lines = re.sub(r"\\\n", " ", recipe).splitlines()
    copies = [line.split()[1:] for line in lines if re.match(r"\s*COPY\s", line, re.IGNORECASE)]
    own = [copy for copy in copies if not any(word.startswith("--from=") for word in copy)]
    return sorted({word for copy in own for word in copy[:-1] if not word.startswith("--")})


def machine_mounts() -> list[str]:
    """List the volumes of a build: this machine's settings, and uv's cache so that nothing is fetched twice."""
    settings = [f"{path}:{path}:ro" for path in MACHINE_SETTINGS if Path(path).exists()]
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache/uv")
    return [*settings, f"{cache}:{UV_CACHE_IN_BUILD}"] if cache.is_dir() else settings


def _files_below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    yield from sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)


def _identify(image: str) -> str:
    """Name the base by its content where it is local: rebuilt under the same name it is another base."""
    if not succeeds("buildah", "inspect", "--type", "image", image):
        return image
    return str(json.loads(run("buildah", "inspect", "--type", "image", image))["FromImageID"])


def _read_label(image: str) -> str | None:
    if not succeeds("buildah", "inspect", "--type", "image", image):
        return None
    config = json.loads(run("buildah", "inspect", "--type", "image", image))["OCIv1"]["config"]
    return str(config.get("Labels", {}).get(DIGEST_LABEL, ""))
