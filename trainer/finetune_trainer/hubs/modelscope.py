"""ModelScope by its own library, modelscope_hub: what the package modelscope, seconds to import, itself uses.

Its downloads ask a metadata address for the cloud's region, and its sessions wait as long as a server says. So only its
lists and its plain stream of a file are used, over sessions whose redirects are looked at and that do not retry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
from modelscope_hub import HubApi, HubConfig
from modelscope_hub.errors import APIError, HubError
from requests.adapters import HTTPAdapter

from finetune_trainer.errors import UserError
from finetune_trainer.hubs.address import Hub, HubFile, HubSnapshot, RepositoryAddress
from finetune_trainer.hubs.client import Body, first_byte
from finetune_trainer.hubs.network import (
    ca_bundle,
    endpoint_of,
    quiet_libraries,
    refuse_metadata_address,
    refuse_metadata_proxies,
)
from finetune_trainer.hubs.refusals import (
    HubAnswer,
    failure_of,
    missing_revision,
    understood,
    untrusted_certificate,
)
from finetune_trainer.hubs.retrying import TryAgain

_MAIN_BRANCH = "master"
_BLOCK_BYTES = 64 * 1024
_MAX_REDIRECTS = 5
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Where the library would keep an identifier of this installation, for the hub's statistics: nowhere.
_NOWHERE = Path(os.devnull) / "modelscope"


class ModelScopeClient:
    """One repository of ModelScope."""

    def __init__(self, address: RepositoryAddress) -> None:
        self._address = address
        self._endpoint = endpoint_of(Hub.MODEL_SCOPE)
        refuse_metadata_proxies()
        quiet_libraries()
        # An empty token, not None: with None the library reads one, pickled, from the home folder.
        token = address.token.value if address.token else ""
        api = HubApi(HubConfig(endpoint=self._endpoint, token=token, cache_dir=_NOWHERE, config_dir=_NOWHERE))
        self._api = api.legacy
        # Private names of the library, and the only way to its sessions; tests hold that redirects are looked at.
        for session in (self._api._session, self._api._read_session):
            _limit(session)
        self._api._session.mount("https://", HTTPAdapter(max_retries=0))
        self._api._session.mount("http://", HTTPAdapter(max_retries=0))

    def resolve(self) -> HubSnapshot:
        """List the files of the wanted revision, and say which commit it is."""
        name, kind = self._address.name, self._address.kind.value
        with self._understood(), self._translated():
            revision = self._present_revision()
            listed = self._api.list_repo_files(name, kind, revision=revision)
            entries = [entry for entry in listed if entry.get("Type") != "tree"]
            return HubSnapshot(_commit(entries, revision), tuple(_file(entry, revision) for entry in entries))

    @contextmanager
    def open_file(self, commit: str, file: HubFile, start: int) -> Iterator[Body]:
        """Ask for a file's bytes from `start` on."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        name, kind = self._address.name, self._address.kind.value
        with self._translated():
            revision = file.revision or commit
            response = self._api.download_stream(name, kind, file.name, revision=revision, headers=headers)
            with response:
                begins = first_byte(response.status_code, response.headers.get("Content-Range"))
                yield Body(begins, response.iter_content(_BLOCK_BYTES))

    def _present_revision(self) -> str:
        """The wanted revision, or the main branch. Raises UserError that lists those there are."""
        # The list of files answers 404 for a missing repository and a missing revision; this one for the first only.
        listed = self._api.list_revisions(self._address.name, self._address.kind.value)
        present = tuple(str(each.get("Revision", "")) for each in listed)
        wanted = self._address.revision
        if wanted is None:
            return present[0] if present and _MAIN_BRANCH not in present else _MAIN_BRANCH
        if present and wanted not in present and not _COMMIT.fullmatch(wanted):
            raise UserError(missing_revision(self._address, self._endpoint, present))
        return wanted

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the library and its requests raise into UserError or TryAgain."""
        address, endpoint = self._address, self._endpoint
        try:
            yield
        except APIError as error:
            raise failure_of(address, endpoint, _answer(error)) from error
        except (
            requests.TooManyRedirects,
            requests.exceptions.InvalidSchema,
            requests.exceptions.InvalidURL,
        ) as error:
            raise UserError(
                f"{endpoint} sends the request for {address.uri} on to nowhere ({type(error).__name__}). Correct "
                "MODELSCOPE_ENDPOINT."
            ) from error
        except requests.JSONDecodeError as error:
            raise ValueError("no JSON") from error
        except (HubError, requests.RequestException) as error:
            raise _of_connection(endpoint, error) from error

    def _understood(self) -> AbstractContextManager[None]:
        return understood(self._endpoint, "ModelScope", "MODELSCOPE_ENDPOINT")


# --- the sessions ----------------------------------------------------------------------------------------------


def _limit(session: requests.Session) -> None:
    session.max_redirects = _MAX_REDIRECTS
    session.hooks["response"].append(_look_at_redirect)
    if (bundle := ca_bundle()) is not None:
        session.verify = bundle


def _look_at_redirect(response: requests.Response, *arguments: object, **keywords: object) -> None:
    """Before a redirect is followed: look where it goes."""
    if response.is_redirect:
        target = urljoin(response.url, response.headers["Location"])
        host = target.partition("://")[2].partition("/")[0]
        refuse_metadata_address(target, f"A redirect to {host}")


# --- answers ---------------------------------------------------------------------------------------------------


def _file(entry: Mapping[str, Any], revision: str) -> HubFile:
    sha256, commit = str(entry.get("Sha256") or "").lower(), str(entry.get("Revision") or "")
    return HubFile(
        name=str(entry["Path"]),
        size_bytes=int(entry["Size"]),
        sha256=sha256 if _SHA256.fullmatch(sha256) else None,
        revision=revision if _COMMIT.fullmatch(revision) else commit if _COMMIT.fullmatch(commit) else None,
    )


def _commit(entries: list[dict[str, Any]], revision: str) -> str:
    """The commit that changed a file last: the listing names no other. A revision that is a commit is that."""
    if _COMMIT.fullmatch(revision):
        return revision
    dated = [
        (int(entry.get("CommittedDate") or 0), str(entry["Revision"]))
        for entry in entries
        if _COMMIT.fullmatch(str(entry.get("Revision") or ""))
    ]
    return max(dated)[1] if dated else revision


def _answer(error: APIError) -> HubAnswer:
    return HubAnswer(
        status=error.status_code or 0,
        message=str(error.message),
        retry_after_seconds=getattr(error, "retry_after", None),
    )


def _of_connection(endpoint: str, error: Exception) -> UserError | TryAgain:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, requests.exceptions.SSLError):
            return UserError(untrusted_certificate(endpoint, "the handshake failed"))
        cause = cause.__cause__ or cause.__context__
    return TryAgain(f"the connection to {endpoint} failed ({type(error).__name__})")
