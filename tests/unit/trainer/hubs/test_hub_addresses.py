"""What a hub's URI means, and how files are told apart."""

from __future__ import annotations

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.hubs import Hub, HubFile, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.address import HubToken, is_hub_uri, parse_hub_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hf://Qwen/Qwen3-0.6B", (Hub.HUGGING_FACE, "Qwen/Qwen3-0.6B", None)),
        ("modelscope://Qwen/Qwen3-0.6B", (Hub.MODEL_SCOPE, "Qwen/Qwen3-0.6B", None)),
        ("hf://org/rows:20231101.zh", (Hub.HUGGING_FACE, "org/rows", "20231101.zh")),
        ("hf://org/rows/", (Hub.HUGGING_FACE, "org/rows", None)),
    ],
)
def test_a_hubs_uri_is_split(uri: str, expected: tuple[Hub, str, str | None]) -> None:
    assert parse_hub_uri(uri) == expected
    assert is_hub_uri(uri)


@pytest.mark.parametrize(
    "uri", ["hf://name", "hf://a/b/c", "hf://", "org/name", "s3://bucket/key", "hf:///name"]
)
def test_what_names_no_repository_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="names no hub's repository"):
        parse_hub_uri(uri)


@pytest.mark.parametrize(
    ("hub", "kind", "page"),
    [
        (Hub.HUGGING_FACE, RepositoryKind.MODEL, "https://hub/org/name"),
        (Hub.HUGGING_FACE, RepositoryKind.DATASET, "https://hub/datasets/org/name"),
        (Hub.MODEL_SCOPE, RepositoryKind.MODEL, "https://hub/models/org/name"),
        (Hub.MODEL_SCOPE, RepositoryKind.DATASET, "https://hub/datasets/org/name"),
    ],
)
def test_the_page_for_people_is_named(hub: Hub, kind: RepositoryKind, page: str) -> None:
    assert RepositoryAddress(hub, kind, "org/name").page("https://hub") == page


def test_a_file_is_told_by_the_strongest_hash() -> None:
    assert HubFile("a", 1, sha256="ab", git_oid="cd").identity == "sha256:ab"
    assert HubFile("a", 1, git_oid="cd").identity == "git:cd"
    assert HubFile("a", 1).identity is None


def test_a_token_is_never_shown() -> None:
    token = HubToken("hf_secret", "hub", "token")
    address = RepositoryAddress(Hub.HUGGING_FACE, RepositoryKind.MODEL, "org/name", token=token)

    assert "hf_secret" not in f"{token} {token!r} {address!r}"
    assert str(token) == "key token of Secret 'hub'"
