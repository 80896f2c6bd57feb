"""Which image an attempt runs."""

from __future__ import annotations

import pytest

from finetune_operator.images import choose_image, pin_image

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "image_id", "pinned"),
    [
        pytest.param("r.io/t:1", f"r.io/t@{DIGEST}", f"r.io/t:1@{DIGEST}", id="a pulled image is pinned"),
        pytest.param("r.io:5000/t:1", f"r.io:5000/t@{DIGEST}", f"r.io:5000/t:1@{DIGEST}", id="with a port"),
        pytest.param("t:1", f"docker.io/library/t@{DIGEST}", f"t:1@{DIGEST}", id="a short name"),
        pytest.param("a/t:1", f"docker.io/a/t@{DIGEST}", f"a/t:1@{DIGEST}", id="a name without registry"),
        pytest.param("localhost/t:1", DIGEST, "localhost/t:1", id="a sideloaded image has no repository"),
        pytest.param(
            "r.io/t:1", f"r.io/import@{DIGEST}", "r.io/t:1", id="another repository cannot be pulled"
        ),
        pytest.param(f"r.io/t@{DIGEST}", "", f"r.io/t@{DIGEST}", id="a digest stays"),
        pytest.param(None, "", None, id="none"),
    ],
)
def test_an_image_is_pinned_where_it_can_be_pulled_again(
    image: str | None, image_id: str, pinned: str | None
) -> None:
    assert pin_image(image, image_id) == pinned


@pytest.mark.parametrize(
    ("pinned", "wanted", "chosen"),
    [
        pytest.param(None, None, None, id="the installation's"),
        pytest.param(f"t:1@{DIGEST}", None, f"t:1@{DIGEST}", id="what the job began with"),
        pytest.param(f"t:1@{DIGEST}", "t:1", f"t:1@{DIGEST}", id="the same by digest"),
        pytest.param(f"t:1@{DIGEST}", "t:2", "t:2", id="another"),
        pytest.param(None, "t:2", "t:2", id="the spec's"),
        pytest.param(f"t:10@{DIGEST}", "t:1", "t:1", id="a tag that only begins the same"),
    ],
)
def test_a_job_keeps_its_image_until_another_is_named(
    pinned: str | None, wanted: str | None, chosen: str | None
) -> None:
    assert choose_image(pinned, wanted) == chosen
