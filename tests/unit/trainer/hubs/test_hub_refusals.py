"""What a hub's answer stands for."""

from __future__ import annotations

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.hubs import Hub, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.address import HubToken
from finetune_trainer.hubs.refusals import HubAnswer, failure_of, missing_revision
from finetune_trainer.hubs.retrying import TryAgain

ENDPOINT = "https://hub.example.com"
TOKEN = HubToken("secret-value", "hub", "token")


def make_address(*, token: HubToken | None = None, hub: Hub = Hub.HUGGING_FACE) -> RepositoryAddress:
    """A data set of a job."""
    return RepositoryAddress(hub, RepositoryKind.DATASET, "org/rows", "v9", token, "dataset.train[0]")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_answers_that_heal_are_tried_again(status: int) -> None:
    failure = failure_of(make_address(), ENDPOINT, HubAnswer(status, retry_after_seconds=7.0))

    assert isinstance(failure, TryAgain)
    assert failure.wait_seconds == 7.0


SENTENCES = {
    "missing, without a token": (
        HubAnswer(404, "RepoNotFound", "Repository not found"),
        None,
        "hf://org/rows was not found at https://hub.example.com: there is no such dataset, or it is private (the hub "
        "does not say which). Correct dataset.train[0].source, or set dataset.train[0].tokenSecretRef to a Secret with "
        "a token that may read it.",
    ),
    "401 without a token is a missing repository too": (
        HubAnswer(401, "", "Invalid username or password."),
        None,
        "hf://org/rows was not found",
    ),
    "missing, with a token": (
        HubAnswer(404, "RepoNotFound"),
        TOKEN,
        "the token in key token of Secret 'hub' may not",
    ),
    "a wrong token": (
        HubAnswer(401, "", "Invalid credentials in Authorization header"),
        TOKEN,
        "Hugging Face does not accept the token in key token of Secret 'hub'",
    ),
    "gated": (
        HubAnswer(403, "GatedRepo"),
        TOKEN,
        "Accept its terms at https://hub.example.com/datasets/org/rows with that account",
    ),
    "a token without the right": (
        HubAnswer(403, "", "The  token\nlacks permissions" + "." * 400),
        TOKEN,
        "to the token in key token of Secret 'hub' (403: The token lacks permissions....",
    ),
    "something else": (
        HubAnswer(451, "", "Unavailable"),
        None,
        "refuses to give hf://org/rows (451: Unavailable)",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_a_refusal_is_a_sentence(case: str) -> None:
    answer, token, expected = SENTENCES[case]
    failure = failure_of(make_address(token=token), ENDPOINT, answer)

    assert isinstance(failure, UserError)
    assert expected in failure.message
    assert "secret-value" not in failure.message
    assert len(failure.message) < 700


def test_a_missing_revision_lists_those_there_are() -> None:
    assert missing_revision(make_address(), ENDPOINT, ("main", "v1")).startswith(
        "hf://org/rows has no revision 'v9'. It has main, v1. Set dataset.train[0].revision to a branch"
    )


def test_modelscope_has_its_own_page_for_tokens() -> None:
    failure = failure_of(make_address(token=TOKEN, hub=Hub.MODEL_SCOPE), ENDPOINT, HubAnswer(401))

    assert "https://hub.example.com/my/myaccesstoken" in str(failure)
