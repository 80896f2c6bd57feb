"""What a hub's refusal means for the job: who must do what. Pure.

Both hubs hide private repositories: one that a token may not see looks like one that does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from finetune_trainer.errors import UserError
from finetune_trainer.hubs.address import Hub, RepositoryAddress
from finetune_trainer.hubs.retrying import TryAgain

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class HubAnswer:
    """An answer that is no success; `code` is Hugging Face's X-Error-Code, empty for ModelScope."""

    status: int
    code: str = ""
    message: str = ""
    retry_after_seconds: float | None = None


def does_heal(status: int) -> bool:
    """Whether the same request may succeed later: time-outs, too many requests, errors of the server."""
    return status in (408, 425, 429) or status >= 500


def failure_of(address: RepositoryAddress, endpoint: str, answer: HubAnswer) -> UserError | TryAgain:
    """The failure that an answer stands for."""
    if does_heal(answer.status):
        return TryAgain(f"{endpoint} answers {answer.status}", answer.retry_after_seconds)
    return UserError(_sentence(address, endpoint, answer))


def _sentence(address: RepositoryAddress, endpoint: str, answer: HubAnswer) -> str:
    if answer.code == "RevisionNotFound":
        return missing_revision(address, endpoint)
    if answer.code == "EntryNotFound":
        return (
            f"{address.uri} at {endpoint} lists a file that it does not have any more ({_cut(answer.message)}). "
            "Apply the job again, which reads the list anew."
        )
    if answer.code == "GatedRepo":
        return _gated(address, endpoint)
    if answer.status == 401 and address.token is not None and answer.code != "RepoNotFound":
        return _refused_token(address, endpoint)
    if answer.status in (401, 404):
        return _not_found(address, endpoint)
    if answer.status == 403:
        return _forbidden(address, endpoint, answer)
    return (
        f"{endpoint} refuses to give {address.uri} ({answer.status}{_because(answer)}). "
        f"Correct {address.place}.source, or the hub's address if it was set."
    )


def _not_found(address: RepositoryAddress, endpoint: str) -> str:
    if address.token is None:
        return (
            f"{address.uri} was not found at {endpoint}: there is no such {address.kind}, or it is private (the hub "
            f"does not say which). Correct {address.place}.source, or set {address.place}.tokenSecretRef to a Secret "
            "with a token that may read it."
        )
    return (
        f"{address.uri} was not found at {endpoint}: there is no such {address.kind}, or it is private and the token "
        f"in {address.token} may not read it (the hub does not say which). Correct {address.place}.source, or use the "
        "token of an account that may read it."
    )


def _gated(address: RepositoryAddress, endpoint: str) -> str:
    page = address.page(endpoint)
    if address.token is None:
        return (
            f"{address.uri} is gated: its terms must be accepted first. Accept them at {page}, create a token with "
            f"read access, put it into a Secret and name that in {address.place}.tokenSecretRef."
        )
    return (
        f"{address.uri} is gated, and the account of the token in {address.token} has no access to it. Accept its "
        f"terms at {page} with that account (some authors must approve), or use another account's token."
    )


def _refused_token(address: RepositoryAddress, endpoint: str) -> str:
    page = {Hub.HUGGING_FACE: "settings/tokens", Hub.MODEL_SCOPE: "my/myaccesstoken"}[address.hub]
    return (
        f"{address.hub.label} does not accept the token in {address.token}: it is wrong, expired or revoked. Create "
        f"one at {endpoint}/{page} and put it into the Secret."
    )


def _forbidden(address: RepositoryAddress, endpoint: str, answer: HubAnswer) -> str:
    if address.token is None:
        return (
            f"{endpoint} does not give {address.uri} without a token (403{_because(answer)}). Set "
            f"{address.place}.tokenSecretRef to a Secret with a token that may read it."
        )
    return (
        f"{endpoint} does not give {address.uri} to the token in {address.token} (403{_because(answer)}). Give the "
        f"token read access to it, or accept its terms at {address.page(endpoint)}."
    )


def missing_revision(address: RepositoryAddress, endpoint: str, present: tuple[str, ...] = ()) -> str:
    """The sentence for a branch, tag or commit that is not there; `present` are those that are, if known."""
    known = f" It has {', '.join(present[:10])}." if present else ""
    return (
        f"{address.uri} has no revision '{address.revision}'.{known} Set {address.place}.revision to a branch, a tag "
        f"or a commit of {address.page(endpoint)}, or remove it."
    )


def untrusted_certificate(endpoint: str, why: str) -> str:
    """The sentence for a server whose certificate no known authority has signed."""
    return (
        f"The certificate of {endpoint}, or of the server that it redirects to, is not trusted ({why}). If a proxy "
        "stands between, the administrator must mount its authority into the pods and name it in SSL_CERT_FILE; else "
        "correct the hub's address."
    )


def _because(answer: HubAnswer) -> str:
    message = _cut(answer.message)
    return f": {message}" if message else ""


def _cut(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


@contextmanager
def understood(endpoint: str, hub: str, variable: str) -> Iterator[None]:
    """Raise UserError where an answer is not what the hub's API gives: a login page, another server."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{endpoint} does not answer as {hub} does ({type(error).__name__}: {str(error)[:100]}). "
            f"If {variable} is set, check that it is a hub; else look for a proxy that answers in its place."
        ) from error
