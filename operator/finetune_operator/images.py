"""Which image an attempt runs: that of the job's first attempt, by digest where the node knows one.

A moved tag or an upgraded operator must not change what a run is computed with half-way.
"""

from __future__ import annotations


def pin_image(image: str | None, image_id: str) -> str | None:
    """`repository:tag@sha256:…` where the node pulled the image from that repository, else the image as it was named.

    A sideloaded image has an id without a repository, or with a made-up one; such an id cannot be pulled.
    """
    if image is None or "@" in image:
        return image
    repository, _, digest = image_id.rpartition("@")
    return f"{image}@{digest}" if repository and repository == _repository(image) else image


def choose_image(pinned: str | None, wanted: str | None) -> str | None:
    """The image of the next attempt: the pinned one, unless `spec.image` names another. None: the installation's."""
    if wanted is None or pinned is None:
        return wanted or pinned
    return pinned if pinned == wanted or pinned.startswith(f"{wanted}@") else wanted


def _repository(image: str) -> str:
    """The full name without its tag, as runtimes write it. A colon before the last slash belongs to a port."""
    head, slash, tail = image.rpartition("/")
    name = f"{head}{slash}{tail.partition(':')[0]}"
    registry, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    is_registry = "." in registry or ":" in registry or registry == "localhost"
    return name if is_registry else f"docker.io/{name}"
