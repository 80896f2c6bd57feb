"""ModelScope's own library against a server that speaks its protocol."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import ObjectDamaged, StorageUnavailable, UserError
from finetune_trainer.hubs import Hub, HubRepository, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.address import HubToken
from finetune_trainer.hubs.retrying import Patience
from tests.builders.self_signed import CERTIFICATE_NAME, write_certificate
from tests.stand_ins.hub_server import connect_directly
from tests.stand_ins.model_scope_hub import ModelScopeHub

NAME = "Qwen/tiny"
WEIGHTS = random.Random(1).randbytes(300_000)
FILES = {"configuration.json": b"{}", "folder/more.txt": b"more", "model.safetensors": WEIGHTS}
SHORT = Patience(total_seconds=3.0, first_wait_seconds=0.01, longest_wait_seconds=0.05)
TOKEN = HubToken("ms-reader", "hub", "token")
# What the library reads at a time, and loses where a connection breaks.
BLOCK_BYTES = 64 * 1024


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelScopeHub]:
    """The hub with one model."""
    connect_directly(monkeypatch)
    with ModelScopeHub() as hub:
        hub.commit(NAME, FILES)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.endpoint)
        yield hub


def open_repository(
    name: str = NAME,
    patience: Patience = SHORT,
    kind: RepositoryKind = RepositoryKind.MODEL,
    **settings: Any,
) -> HubRepository:
    """The repository as a job's model names it."""
    return HubRepository.open(RepositoryAddress(Hub.MODEL_SCOPE, kind, name, **settings), patience)


def fetch(repository: HubRepository, directory: Path, name: str = "model.safetensors") -> bytes:
    """One file of it."""
    file = repository.resolve().file(name)
    assert file is not None
    return repository.read(file, directory)


def test_every_file_arrives_as_it_is(hub: ModelScopeHub, tmp_path: Path) -> None:
    repository = open_repository()

    assert {file.name for file in repository.resolve().files} == set(FILES)
    assert {name: fetch(repository, tmp_path, name) for name in FILES} == FILES


def test_nothing_else_is_asked_for(hub: ModelScopeHub, tmp_path: Path) -> None:
    """The library's own downloads ask where they are, and for that an address that serves credentials."""
    fetch(open_repository(), tmp_path)

    assert {each.path.replace(NAME, "…") for each in hub.seen if "content" not in each.path} == {
        "/api/v1/models/…/revisions",
        "/api/v1/models/…/repo/files",
        "/api/v1/models/…/repo",
    }


def test_no_trace_is_left_on_the_disk(
    hub: ModelScopeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fetch(open_repository(token=None), tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_private_model_is_read_with_its_token(
    hub: ModelScopeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.hide(NAME, readers={TOKEN.value})

    assert fetch(open_repository(token=TOKEN), tmp_path) == WEIGHTS
    assert TOKEN.value not in caplog.text


def test_a_data_set_of_many_pages_is_listed(hub: ModelScopeHub, tmp_path: Path) -> None:
    files = {f"data/{number:05}.jsonl": b"{}" for number in range(450)}
    hub.commit("org/rows", files, kind="dataset")
    repository = open_repository("org/rows", kind=RepositoryKind.DATASET)

    assert {file.name for file in repository.resolve().files} == set(files)
    assert fetch(repository, tmp_path, "data/00449.jsonl") == b"{}"


def test_a_broken_download_goes_on_where_it_ended(hub: ModelScopeHub, tmp_path: Path) -> None:
    hub.cut(100_000, to="/content/")
    hub.answer(503, to="repo$", times=1)
    hub.reset(100_000, to="/content/")

    assert fetch(open_repository(), tmp_path) == WEIGHTS
    assert len(WEIGHTS) <= hub.sent("/content/") < len(WEIGHTS) + 2 * BLOCK_BYTES


def test_a_branch_that_moves_on_changes_nothing(hub: ModelScopeHub, tmp_path: Path) -> None:
    repository = open_repository()
    first = repository.resolve().commit
    second = hub.commit(NAME, {**FILES, "configuration.json": b"{2}", "model.safetensors": WEIGHTS[::-1]})

    assert fetch(repository, tmp_path, "configuration.json") == b"{}"
    assert fetch(repository, tmp_path) == WEIGHTS
    assert first != second
    assert open_repository().resolve().commit == second


def test_without_a_revision_the_only_branch_is_meant(hub: ModelScopeHub, tmp_path: Path) -> None:
    commit = hub.commit("org/other", {"configuration.json": b"{3}"}, branch="main")

    assert open_repository("org/other").resolve().commit == commit


def test_a_commit_can_be_named(hub: ModelScopeHub, tmp_path: Path) -> None:
    first = open_repository().resolve().commit
    hub.commit(NAME, {"configuration.json": b"{2}"})
    repository = open_repository(revision=first)

    assert repository.resolve().commit == first
    assert fetch(repository, tmp_path, "configuration.json") == b"{}"


def test_a_file_that_stays_damaged_is_not_taken(hub: ModelScopeHub, tmp_path: Path) -> None:
    hub.damage(1, to="/content/", times=9)

    with pytest.raises(ObjectDamaged, match="does not have the SHA-256 that the hub lists"):
        fetch(open_repository(), tmp_path)


REFUSALS: dict[str, tuple[Callable[[ModelScopeHub], object], dict[str, Any], str]] = {
    "a repository that is not there": (
        lambda hub: None,
        {"name": "Qwen/missing"},
        "modelscope://Qwen/missing was not found at .*there is no such model, or it is private",
    ),
    "a private repository, with the token of somebody else": (
        lambda hub: hub.hide(NAME, readers={"ms-owner"}),
        {"token": TOKEN},
        "the token in key token of Secret 'hub' may not read it",
    ),
    "a wrong token": (
        lambda hub: None,
        {"token": HubToken("ms-expired", "hub", "token")},
        r"ModelScope does not accept the token in key token of Secret 'hub'.*/my/myaccesstoken",
    ),
    "a revision that is not there": (
        lambda hub: hub.commit(NAME, FILES, branch="v1.0"),
        {"revision": "v9"},
        r"modelscope://Qwen/tiny has no revision 'v9'\. It has master, v1\.0\. Set model\.revision",
    ),
    "terms that were not accepted": (
        lambda hub: hub.answer(
            403, to="repo/files", body=b'{"Code": 403, "Message": "apply for access first"}'
        ),
        {},
        r"does not give modelscope://Qwen/tiny without a token \(403: apply for access first\)",
    ),
    "another server, with a page for people": (
        lambda hub: hub.answer(200, to="/api/", body=b"<html>log in</html>"),
        {},
        "does not answer as ModelScope does",
    ),
    "redirects in a circle": (
        lambda hub: hub.send_elsewhere("/api/v1/models/Qwen/tiny/revisions", to="revisions"),
        {},
        "sends the request for .* on to nowhere",
    ),
    "a redirect to another protocol": (
        lambda hub: hub.send_elsewhere("ftp://127.0.0.1/", to="repo/files"),
        {},
        "sends the request for .* on to nowhere",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_what_to_do(hub: ModelScopeHub, tmp_path: Path, case: str) -> None:
    change, settings, sentence = REFUSALS[case]
    hub.tokens.add(TOKEN.value)
    change(hub)

    with pytest.raises(UserError, match=sentence) as raised:
        fetch(open_repository(**settings), tmp_path)
    assert TOKEN.value not in raised.value.message


@pytest.mark.parametrize("path", ["revisions", "repo/files", "repo$"])
def test_a_redirect_to_credentials_is_not_followed(
    hub: ModelScopeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    hub.send_elsewhere("http://100.100.100.200/latest/meta-data/", to=path)
    refuse_connections_but_to_loopback(monkeypatch)

    with pytest.raises(
        UserError, match=r"leads to .*, a link-local or metadata address, which is never a hub"
    ):
        fetch(open_repository(), tmp_path)


def refuse_connections_but_to_loopback(patch: pytest.MonkeyPatch) -> None:
    """Let a connection to anywhere else fail the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"connected to {address}"
        connect(self, address)

    patch.setattr(socket.socket, "connect", guarded)


@pytest.mark.parametrize("path", ["revisions", "repo$"])
def test_a_hub_that_stays_busy_is_left_for_later(hub: ModelScopeHub, tmp_path: Path, path: str) -> None:
    hub.answer(503, to=path, headers={"Retry-After": "86400"})

    with pytest.raises(StorageUnavailable, match="answers 503, also when tried again"):
        fetch(open_repository(patience=Patience(0.2, 0.01, 0.05)), tmp_path)


def test_a_day_is_not_waited(hub: ModelScopeHub, tmp_path: Path) -> None:
    hub.answer(429, to="revisions", headers={"Retry-After": "86400"})

    with pytest.raises(StorageUnavailable, match="answers 429"):
        fetch(open_repository(patience=Patience()), tmp_path)


def test_a_hub_that_is_away_is_left_for_later(hub: ModelScopeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")

    with pytest.raises(StorageUnavailable, match=r"the connection to http://127.* failed"):
        open_repository(patience=Patience(0.1, 0.02, 0.05)).resolve()


def test_the_older_name_of_the_address_is_understood(
    hub: ModelScopeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MODELSCOPE_DOMAIN is a host without a scheme: https is meant."""
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.endpoint.removeprefix("http://"))

    with pytest.raises((UserError, StorageUnavailable), match=r"https://127\.0\.0\.1"):
        open_repository(patience=Patience(0.1, 0.02, 0.05)).resolve()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", None])
def test_the_certificates_of_the_environment_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    connect_directly(monkeypatch)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    write_certificate(tmp_path)
    hub = ModelScopeHub()
    hub.use_certificate(tmp_path)
    with hub:
        hub.commit(NAME, {"configuration.json": b"{}"})
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.endpoint)
        if variable is not None:
            monkeypatch.setenv(variable, str(tmp_path / CERTIFICATE_NAME))
            assert fetch(open_repository(), tmp_path / "files", "configuration.json") == b"{}"
        else:
            with pytest.raises(UserError, match=r"The certificate of https://127.* is not trusted"):
                open_repository().resolve()
