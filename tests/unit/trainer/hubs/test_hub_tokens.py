"""A hub's token from a mounted Secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api import names
from finetune_api.spec import TokenSecretRef
from finetune_trainer.errors import UserError
from finetune_trainer.hubs.tokens import read_token


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a mounted Secret."""
    monkeypatch.setattr(names, "CONFIG_DIRECTORY", str(tmp_path))
    folder = tmp_path / "credentials/hub"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("content", ["hf_abc", "hf_abc\n", "  hf_abc\r\n"])
def test_the_token_is_read_without_white_space_around_it(secret: Path, content: str) -> None:
    (secret / "token").write_text(content)

    token = read_token(TokenSecretRef(name="hub"), "model")
    assert token is not None
    assert (token.value, token.secret, token.key) == ("hf_abc", "hub", "token")


def test_without_a_reference_there_is_no_token() -> None:
    assert read_token(None, "model") is None


@pytest.mark.parametrize(
    ("files", "key", "sentence"),
    [
        pytest.param(
            {"other": "x"}, "token",
            r"Key token of Secret 'hub' is missing; the Secret has other\. Put the token there, or name its key in "
            r"dataset\.train\[0\]\.tokenSecretRef\.key", id="another key",
        ),
        pytest.param({}, "token", "is missing; the Secret has no keys", id="no key"),
        pytest.param({"hf": "\n"}, "hf", "Key hf of Secret 'hub' is empty", id="an empty key"),
        pytest.param({"token": "a b"}, "token", "holds no token: there is white space", id="two words"),
        pytest.param({"token": "a\nb"}, "token", "holds no token", id="two lines"),
        pytest.param({"token": "钥匙"}, "token", "holds no token", id="other signs"),
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(secret: Path, files: dict[str, str], key: str, sentence: str) -> None:
    for name, content in files.items():
        (secret / name).write_text(content, encoding="utf-8")

    with pytest.raises(UserError, match=sentence):
        read_token(TokenSecretRef(name="hub", key=key), "dataset.train[0]")


def test_a_secret_that_is_not_mounted_is_named(secret: Path) -> None:
    with pytest.raises(UserError, match=r"Secret 'none' of model\.tokenSecretRef is not mounted at .*/none"):
        read_token(TokenSecretRef(name="none"), "model")
