"""Hugging Face by its own library, huggingface_hub, over an HTTP session of ours with the limits that it lacks.

The library waits without bound where a server says so, lists without time-outs, and downloads through hf_xet (a second
HTTP client, in Rust, with hosts and redirects of its own). So its session is made here: each request has a time-out
and goes to an address that was looked at, and busy answers come back to us at once. Files are read by plain HTTP, which
every mirror serves; huggingface.co redirects it to its content servers (*.hf.co).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    hf_hub_url,
    hf_raise_for_status,
    set_client_factory,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, parse_ratelimit_headers  # type: ignore[attr-defined]

from finetune_trainer.errors import UserError
from finetune_trainer.hubs.address import Hub, HubFile, HubSnapshot, RepositoryAddress
from finetune_trainer.hubs.client import Body, first_byte
from finetune_trainer.hubs.network import (
    CONNECT_TIMEOUT_SECONDS,
    ca_bundle,
    endpoint_of,
    quiet_libraries,
    refuse_metadata_address,
    refuse_metadata_proxies,
)
from finetune_trainer.hubs.refusals import HubAnswer, does_heal, failure_of, understood, untrusted_certificate
from finetune_trainer.hubs.retrying import TryAgain

_MAX_REDIRECTS = 5


class HuggingFaceClient:
    """One repository of Hugging Face, or of a mirror that HF_ENDPOINT names."""

    def __init__(self, address: RepositoryAddress) -> None:
        self._address = address
        self._endpoint = endpoint_of(Hub.HUGGING_FACE)
        # False, not None: with None the library looks for a token of its own.
        self._token: str | bool = address.token.value if address.token else False
        _refuse_offline(address)
        refuse_metadata_proxies()
        quiet_libraries()
        # Without it the library tells the hub what is installed here, and fetches a list to recognise its caller by.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        set_client_factory(_open_session)
        self._api = HfApi(endpoint=self._endpoint, token=self._token)

    def resolve(self) -> HubSnapshot:
        """List the files of the wanted revision, and say which commit it is."""
        name, kind, revision = self._address.name, self._address.kind.value, self._address.revision
        with self._understood(), self._translated():
            commit = self._api.repo_info(name, repo_type=kind, revision=revision).sha
            if not commit:
                raise ValueError("it names no commit")
            # Asked for by commit: the branch may move between the two requests.
            entries = self._api.list_repo_tree(name, recursive=True, repo_type=kind, revision=commit)
            files = tuple(_file(entry) for entry in entries if isinstance(entry, RepoFile))
        return HubSnapshot(commit, files)

    @contextmanager
    def open_file(self, commit: str, file: HubFile, start: int) -> Iterator[Body]:
        """Ask for a file's bytes from `start` on."""
        name, kind = self._address.name, self._address.kind.value
        url = hf_hub_url(name, file.name, repo_type=kind, revision=commit, endpoint=self._endpoint)
        # What is hashed are the file's own bytes, so nothing may be compressed on the way.
        headers = {**build_hf_headers(token=self._token), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self._translated(), get_session().stream("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            begins = first_byte(response.status_code, response.headers.get("Content-Range"))
            # As they come: blocks of a fixed size would lose what came before a break.
            yield Body(begins, response.iter_bytes())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what requests raise into UserError or TryAgain."""
        address, endpoint = self._address, self._endpoint
        try:
            yield
        except HfHubHTTPError as error:
            raise failure_of(address, endpoint, _answer(error.response)) from error
        except HFValidationError as error:
            raise UserError(
                f"{address.uri} is no repository's name ({error}). Correct {address.place}.source."
            ) from error
        except (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise UserError(
                f"{endpoint} sends the request for {address.uri} on to nowhere ({error}). Correct HF_ENDPOINT."
            ) from error
        except httpx2.RequestError as error:
            raise _of_connection(endpoint, error) from error

    def _understood(self) -> AbstractContextManager[None]:
        return understood(self._endpoint, "Hugging Face", "HF_ENDPOINT")


# --- the session -----------------------------------------------------------------------------------------------


def _open_session() -> httpx2.Client:
    """What the library sends everything with. Proxies are those of the environment."""
    bundle = ca_bundle()
    return httpx2.Client(
        verify=_trusting(Path(bundle)) if bundle else True,
        event_hooks={"request": [_bound], "response": [_raise_if_busy]},
        follow_redirects=True,
        max_redirects=_MAX_REDIRECTS,
    )


def _trusting(bundle: Path) -> ssl.SSLContext:
    if bundle.is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def _bound(request: httpx2.Request) -> None:
    """Before each request, redirected ones too: look where it goes, and limit how long it may take."""
    host = f"{request.url.scheme}://{request.url.netloc.decode()}"
    refuse_metadata_address(str(request.url), f"A request to {host}")
    # HF_HUB_DOWNLOAD_TIMEOUT, which users may set, is the wait for the next bytes.
    seconds = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    request.extensions["timeout"] = httpx2.Timeout(seconds, connect=CONNECT_TIMEOUT_SECONDS).as_dict()


def _raise_if_busy(response: httpx2.Response) -> None:
    """Take answers that heal out of the library's hands: it would wait as long as the server says."""
    if does_heal(response.status_code):
        limits = parse_ratelimit_headers(response.headers)
        after = response.headers.get("Retry-After", "")
        wait = float(after) if after.isdecimal() else None
        if wait is None and limits is not None and limits.remaining == 0:
            wait = float(limits.reset_in_seconds)
        raise TryAgain(f"{response.url.host} answers {response.status_code}", wait)


# --- answers ---------------------------------------------------------------------------------------------------


def _refuse_offline(address: RepositoryAddress) -> None:
    if constants.is_offline_mode():
        raise UserError(
            f"{address.uri} cannot be fetched: HF_HUB_OFFLINE is set where this runs. Unset it, or put the "
            f"{address.kind} into the store and name it in {address.place}.source."
        )


def _file(entry: RepoFile) -> HubFile:
    return HubFile(
        name=entry.path,
        size_bytes=entry.lfs.size if entry.lfs else entry.size,
        sha256=entry.lfs.sha256 if entry.lfs else None,
        git_oid=entry.blob_id if entry.lfs is None else None,
    )


def _answer(response: httpx2.Response) -> HubAnswer:
    return HubAnswer(
        status=response.status_code,
        code=response.headers.get("X-Error-Code", ""),
        message=response.headers.get("X-Error-Message", ""),
    )


def _of_connection(endpoint: str, error: httpx2.RequestError) -> UserError | TryAgain:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UserError(untrusted_certificate(endpoint, cause.verify_message))
        cause = cause.__cause__ or cause.__context__
    return TryAgain(f"the connection to {error.request.url.host} failed ({type(error).__name__}: {error})")
