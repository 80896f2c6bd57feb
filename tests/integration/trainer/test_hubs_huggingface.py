"""Hugging Face's own library against a server that speaks its protocol: what arrives, what is refused, what is waited for."""

from __future__ import annotations

import hashlib
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import ObjectDamaged, StorageUnavailable, UserError
from finetune_trainer.hubs import Hub, HubFile, HubRepository, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.address import HubToken
from finetune_trainer.hubs.retrying import Patience
from tests.builders.self_signed import CERTIFICATE_NAME, write_certificate
from tests.stand_ins.hub_server import connect_directly
from tests.stand_ins.hugging_face_hub import HuggingFaceHub

NAME = "Qwen/tiny"
WEIGHTS = random.Random(0).randbytes(300_000)
FILES = {
    "README.md": b"A model.",
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "onnx/model.txt": b"in a folder",
    "tokenizer.json": b"[]",
    "vocab.json": b"{}",
}
SHORT = Patience(total_seconds=3.0, first_wait_seconds=0.01, longest_wait_seconds=0.05)
TOKEN = HubToken("hf_reader", "hub", "token")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFaceHub]:
    """The hub with one model."""
    connect_directly(monkeypatch)
    with HuggingFaceHub() as hub:
        hub.commit(NAME, FILES)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def open_repository(name: str = NAME, patience: Patience = SHORT, **settings: Any) -> HubRepository:
    """The repository as a job's model names it."""
    address = RepositoryAddress(Hub.HUGGING_FACE, RepositoryKind.MODEL, name, **settings)
    return HubRepository.open(address, patience)


def fetch(repository: HubRepository, directory: Path, name: str = "model.safetensors") -> bytes:
    """One file of it."""
    return repository.read(file_of(repository, name), directory)


def file_of(repository: HubRepository, name: str) -> HubFile:
    """What the hub lists of a file."""
    file = repository.resolve().file(name)
    assert file is not None
    return file


# --- what arrives ----------------------------------------------------------------------------------------------


def test_all_pages_of_the_list_are_read(hub: HuggingFaceHub) -> None:
    snapshot = open_repository().resolve()

    assert {file.name: file.size_bytes for file in snapshot.files} == {n: len(d) for n, d in FILES.items()}
    assert len(snapshot.commit) == 40
    weights = snapshot.file("model.safetensors")
    assert weights is not None
    assert weights.sha256 == hashlib.sha256(WEIGHTS).hexdigest()


@pytest.mark.parametrize("name", FILES)
def test_a_file_arrives_as_it_is(hub: HuggingFaceHub, tmp_path: Path, name: str) -> None:
    assert fetch(open_repository(), tmp_path, name) == FILES[name]
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_only_what_is_needed_is_asked_for(
    hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither telemetry nor the content servers of xet, and no token that the job does not name."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    commit = open_repository().resolve().commit
    fetch(open_repository(), tmp_path)

    assert {each.path for each in hub.seen} == {
        f"/api/models/{NAME}",
        f"/api/models/{NAME}/tree/{commit}",
        f"/{NAME}/resolve/{commit}/model.safetensors",
    }
    assert all(each.token is None for each in hub.seen)


def test_the_token_goes_to_the_hub_and_not_to_its_content_server(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.hide(NAME, readers={TOKEN.value})

    assert fetch(open_repository(token=TOKEN), tmp_path) == WEIGHTS
    assert {each.token for each in hub.seen} == {TOKEN.value}
    assert {each.headers.get("authorization") for each in hub.content.seen} == {None}


def test_neither_token_nor_signed_addresses_are_logged(
    hub: HuggingFaceHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.hide(NAME, readers={TOKEN.value})
    hub.content.cut(1000, to="repos")
    hub.content.answer(503, to="repos", times=1)
    repository = open_repository(token=TOKEN)

    fetch(repository, tmp_path)

    assert "fetched model.safetensors" in caplog.text
    assert hub.content.SIGNATURE not in caplog.text
    assert TOKEN.value not in caplog.text
    assert TOKEN.value not in repr(repository.address)


def test_a_revision_with_slashes_is_found(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.commit(NAME, {"config.json": b"{1}"}, branch="refs/pr/7")

    assert fetch(open_repository(revision="refs/pr/7"), tmp_path, "config.json") == b"{1}"


# --- broken downloads ------------------------------------------------------------------------------------------


def test_a_broken_download_goes_on_where_it_ended(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.content.cut(100_000, to="repos")
    hub.content.answer(502, to="repos", times=1)
    hub.content.reset(50_000, to="repos")

    assert fetch(open_repository(), tmp_path) == WEIGHTS
    assert hub.content.sent("repos") == len(WEIGHTS)
    assert [each.headers.get("range") for each in hub.content.seen if each.status in (200, 206)] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]


def test_a_later_attempt_goes_on_with_what_the_first_one_left(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.content.cut(100_000, to="repos")
    hub.content.answer(503, to="repos", headers={"Retry-After": "86400"}, times=1)
    with pytest.raises(StorageUnavailable):
        fetch(open_repository(), tmp_path)

    assert fetch(open_repository(), tmp_path) == WEIGHTS
    assert hub.content.sent("repos") == len(WEIGHTS)


def test_a_server_that_ignores_ranges_gives_the_whole_file_again(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.content.ignores_ranges = True
    hub.content.cut(100_000, to="repos", times=2)

    assert fetch(open_repository(), tmp_path) == WEIGHTS
    assert hub.content.sent("repos") == 2 * 100_000 + len(WEIGHTS)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_fetched_anew(hub: HuggingFaceHub, tmp_path: Path, name: str) -> None:
    """Large files are verified by SHA-256, small ones by the hash git gives them."""
    server, path = (hub.content, "repos") if name == "model.safetensors" else (hub, "resolve")
    server.damage(1, to=path, times=1)

    assert fetch(open_repository(), tmp_path, name) == FILES[name]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_stays_damaged_is_not_taken(hub: HuggingFaceHub, tmp_path: Path, name: str) -> None:
    for server in (hub, hub.content):
        server.damage(1, to="repos|resolve/.*tokenizer", times=9)

    with pytest.raises(
        ObjectDamaged, match=rf"{name} of hf://{NAME} does not have the .*, also when fetched again"
    ):
        fetch(open_repository(), tmp_path, name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_longer_file_than_listed_is_not_taken(hub: HuggingFaceHub, tmp_path: Path) -> None:
    repository = open_repository()
    repository.resolve()
    hub.content.blobs = {name: data + b"more" for name, data in hub.content.blobs.items()}

    with pytest.raises(ObjectDamaged, match=r"has \d+ bytes, the hub lists 300000"):
        fetch(repository, tmp_path)


# --- a revision that moves -------------------------------------------------------------------------------------


def test_a_branch_that_moves_on_changes_nothing(hub: HuggingFaceHub, tmp_path: Path) -> None:
    repository = open_repository(revision="main")
    first = repository.resolve().commit
    hub.commit(NAME, {**FILES, "config.json": b"{2}", "model.safetensors": WEIGHTS[::-1]})

    assert fetch(repository, tmp_path, "config.json") == b"{}"
    assert fetch(repository, tmp_path) == WEIGHTS
    assert repository.resolve().commit == first
    assert open_repository(revision="main").resolve().commit != first


def test_the_list_is_that_of_the_commit_also_when_the_branch_moves_meanwhile(hub: HuggingFaceHub) -> None:
    """The branch moves after the hub has said which commit it is at, before the list is asked for."""
    answer, moved = hub.respond, threading.Event()

    def move(request: Any) -> Any:
        answered = answer(request)
        if not moved.is_set():
            moved.set()
            hub.commit(NAME, {"other.txt": b"of the next commit"})
        return answered

    hub.respond = move  # type: ignore[method-assign]
    assert {file.name for file in open_repository().resolve().files} == set(FILES)


# --- refusals --------------------------------------------------------------------------------------------------

Change = Callable[[HuggingFaceHub], object]
MISSING = "Qwen/missing"
REFUSALS: dict[str, tuple[Change, dict[str, Any], str]] = {
    "a repository that is not there": (
        lambda hub: None,
        {"name": MISSING},
        r"hf://Qwen/missing was not found at http://127\.0\.0\.1:\d+: there is no such model, or it is private "
        r"\(the hub does not say which\)\. Correct model\.source, or set model\.tokenSecretRef",
    ),
    "a private repository, with the token of somebody else": (
        lambda hub: hub.hide(NAME, readers={"hf_owner"}),
        {"token": TOKEN},
        "was not found at .* and the token in key token of Secret 'hub' may not read it",
    ),
    "a wrong token": (
        lambda hub: None,
        {"token": HubToken("hf_expired", "hub", "token")},
        "Hugging Face does not accept the token in key token of Secret 'hub': it is wrong, expired or revoked. "
        r"Create one at http://127\.0\.0\.1:\d+/settings/tokens",
    ),
    "a gated model, without a token": (
        lambda hub: hub.gate(NAME, readers={"hf_approved"}),
        {},
        rf"hf://{NAME} is gated: its terms must be accepted first. Accept them at http://127\.0\.0\.1:\d+/{NAME}, "
        "create a token with read access, put it into a Secret and name that in model.tokenSecretRef",
    ),
    "a gated model, with the token of somebody else": (
        lambda hub: hub.gate(NAME, readers={"hf_approved"}),
        {"token": TOKEN},
        "is gated, and the account of the token in key token of Secret 'hub' has no access to it. Accept its terms",
    ),
    "a revision that is not there": (
        lambda hub: None,
        {"revision": "v9"},
        rf"hf://{NAME} has no revision 'v9'. Set model.revision to a branch, a tag or a commit",
    ),
    "a repository that is switched off": (
        lambda hub: hub.answer(
            403, to="/api/", headers={"X-Error-Message": "Access to this resource is disabled."}
        ),
        {},
        r"does not give hf://.* without a token \(403: Access to this resource is disabled.\)",
    ),
    "a name that is none": (lambda hub: None, {"name": "Qwen/two--dashes"}, "is no repository's name"),
    "another server, with a page for people": (
        lambda hub: hub.answer(200, to="/api/", body=b"<html>log in</html>"),
        {},
        r"does not answer as Hugging Face does \(JSONDecodeError.*check that it is a hub",
    ),
    "another server, with other JSON": (
        lambda hub: hub.answer(200, to="/api/", body=b"[]"),
        {},
        "does not answer as Hugging Face does",
    ),
    "redirects in a circle": (
        lambda hub: hub.send_elsewhere("/api/models/Qwen/tiny", to="/api/"),
        {},
        "sends the request for .* on to nowhere",
    ),
    "a redirect to another protocol": (
        lambda hub: hub.send_elsewhere("ftp://127.0.0.1/", to="/api/"),
        {},
        "sends the request for .* on to nowhere",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_what_to_do(hub: HuggingFaceHub, tmp_path: Path, case: str) -> None:
    change, settings, sentence = REFUSALS[case]
    hub.tokens.add(TOKEN.value)
    change(hub)

    with pytest.raises(UserError, match=sentence) as raised:
        fetch(open_repository(**settings), tmp_path, "config.json")
    assert TOKEN.value not in raised.value.message


def test_a_file_that_the_hub_lists_and_does_not_have(hub: HuggingFaceHub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lists a file that it does not have any more"):
        open_repository().download(HubFile("gone.json", 10), tmp_path)


def test_a_file_whose_name_leads_out_of_the_folder_is_refused(hub: HuggingFaceHub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would leave the folder"):
        open_repository().download(HubFile("../outside", 10), tmp_path / "inner")


def test_a_process_without_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set where this runs"):
        open_repository()


# --- addresses that are never asked ----------------------------------------------------------------------------

METADATA = [
    pytest.param("http://169.254.169.254/latest/meta-data/", id="link-local"),
    pytest.param("http://[fd00:ec2::254]/latest/", id="link-local, AWS over IPv6"),
    pytest.param("http://100.100.100.200/latest/", id="Alibaba Cloud"),
    pytest.param("http://[::ffff:169.254.169.254]/", id="IPv4 within IPv6"),
    pytest.param("http://2852039166/", id="an address as one number"),
]


@pytest.mark.parametrize("location", METADATA)
@pytest.mark.parametrize("asked", ["/api/", "/resolve/", "repos"])
def test_a_redirect_to_credentials_is_not_followed(
    hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, asked: str
) -> None:
    for server in (hub, hub.content):
        server.send_elsewhere(location, to=asked)
    refuse_connections_but_to_loopback(monkeypatch)

    with pytest.raises(
        UserError, match=r"leads to .*, a link-local or metadata address, which is never a hub"
    ):
        fetch(open_repository(), tmp_path)


def test_a_next_page_at_credentials_is_not_asked_for(
    hub: HuggingFaceHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = {"Link": '<http://169.254.169.254/page2>; rel="next"'}
    hub.answer(200, to="/tree/", headers=link, body=b"[]")
    refuse_connections_but_to_loopback(monkeypatch)

    with pytest.raises(UserError, match=r"leads to .*, a link-local or metadata address"):
        open_repository().resolve()


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "HTTP_PROXY"])
def test_an_environment_that_names_credentials_is_refused(
    hub: HuggingFaceHub, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://169.254.169.254")
    refuse_connections_but_to_loopback(monkeypatch)

    with pytest.raises(UserError, match=r"leads to .*, a link-local or metadata address"):
        open_repository().resolve()


def refuse_connections_but_to_loopback(patch: pytest.MonkeyPatch) -> None:
    """Let a connection to anywhere else fail the test."""
    connect = socket.create_connection

    def guarded(address: tuple[str, int], *arguments: Any, **keywords: Any) -> socket.socket:
        assert address[0] == "127.0.0.1", f"connected to {address}"
        return connect(address, *arguments, **keywords)

    patch.setattr(socket, "create_connection", guarded)


# --- what heals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_hub_is_asked_again(hub: HuggingFaceHub, tmp_path: Path, status: int) -> None:
    for path in ("/api/models/Qwen/tiny$", "/tree/", "/resolve/"):
        hub.answer(status, to=path, times=1, headers={"Retry-After": "0"})

    assert fetch(open_repository(), tmp_path) == WEIGHTS


@pytest.mark.parametrize("path", ["/api/models/Qwen/tiny$", "/tree/", "/resolve/"])
def test_a_hub_that_stays_busy_is_left_for_later(hub: HuggingFaceHub, tmp_path: Path, path: str) -> None:
    hub.answer(503, to=path)
    patience = Patience(total_seconds=0.2, first_wait_seconds=0.01, longest_wait_seconds=0.05)

    with pytest.raises(
        StorageUnavailable, match=r"127\.0\.0\.1 answers 503, also when tried again \(\d+ times\)"
    ):
        fetch(open_repository(patience=patience), tmp_path)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Retry-After": "86400"}, id="Retry-After"),
        pytest.param({"RateLimit": '"api";r=0;t=86400'}, id="RateLimit"),
    ],
)
@pytest.mark.parametrize("path", ["/api/models/Qwen/tiny$", "/tree/", "/resolve/"])
def test_a_day_is_not_waited(hub: HuggingFaceHub, tmp_path: Path, headers: dict[str, str], path: str) -> None:
    hub.answer(429, to=path, headers=headers)

    with pytest.raises(StorageUnavailable, match="answers 429"):
        fetch(open_repository(patience=Patience()), tmp_path)


def test_a_hub_that_is_away_is_left_for_later(hub: HuggingFaceHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    patience = Patience(total_seconds=0.1, first_wait_seconds=0.02, longest_wait_seconds=0.05)

    with pytest.raises(
        StorageUnavailable, match=r"Could not list the files of hf://Qwen/tiny: the connection to 127"
    ):
        open_repository(patience=patience).resolve()


def test_a_hub_that_never_answers_is_not_waited_for(
    hub: HuggingFaceHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library itself asks for lists without a time-out."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageUnavailable, match="ReadTimeout"):
            open_repository(patience=Patience(0.2, 0.01, 0.02)).resolve()


# --- proxies and certificates ----------------------------------------------------------------------------------


def test_the_proxy_of_the_environment_is_used(
    hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of the outside need not be known here: the proxy looks them up."""
    monkeypatch.setenv("HTTP_PROXY", hub.endpoint)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")

    assert fetch(open_repository(), tmp_path, "config.json") == b"{}"
    assert {each.host for each in hub.seen} == {"hub.invalid"}


def test_the_proxy_is_not_used_for_excepted_hosts(
    hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    assert fetch(open_repository(), tmp_path) == WEIGHTS


@pytest.fixture
def own_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub with a certificate that nobody has signed; the certificate."""
    connect_directly(monkeypatch)
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    write_certificate(tmp_path)
    hub = HuggingFaceHub()
    hub.use_certificate(tmp_path)
    with hub:
        hub.commit(NAME, {"config.json": b"{}"})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield tmp_path / CERTIFICATE_NAME


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_the_certificates_of_the_environment_are_trusted(
    own_authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(own_authority))

    assert fetch(open_repository(), tmp_path / "files", "config.json") == b"{}"


def test_a_certificate_of_nobody_is_not_trusted(own_authority: Path) -> None:
    with pytest.raises(UserError, match=r"The certificate of https://127.* is not trusted .*SSL_CERT_FILE"):
        open_repository().resolve()


def test_certificates_that_are_not_there_are_named(
    hub: HuggingFaceHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.crt")

    with pytest.raises(UserError, match=r"SSL_CERT_FILE names /nowhere/ca\.crt, which is not there"):
        open_repository().resolve()
