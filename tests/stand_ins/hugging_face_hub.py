"""A stand-in for huggingface.co on loopback that speaks its protocol: API, resolve, and a content server for large files.

    with HuggingFaceHub() as hub:
        commit = hub.commit("Qwen/tiny", {"config.json": b"{}", "model.safetensors": data})
        hub.commit("org/rows", {"train.jsonl": rows}, kind="dataset", branch="main")
        hub.hide("org/private", readers={"hf_reader"})           # private: 401 or 404 for others, as the real hub
        hub.gate("meta/model", readers={"hf_approved"})          # listed for all, downloads are refused
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)

What it answers follows huggingface.co: X-Error-Code, X-Repo-Commit, X-Linked-Etag, ETag, Link for the pages of a tree,
302 to another host for LFS files with a signature in the URL. A token that the hub does not know is refused everywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tests.stand_ins.hub_server import Answer, HubServer, Request, json_answer

_LARGE = re.compile(r"\.(safetensors|bin|parquet|arrow|gz|zst)$")
_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+?)(?P<rest>/(revision|tree)/.+)?$")
_RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<commit>[^/]+)/(?P<file>.+)$")
TREE_PAGE = 4


@dataclass
class Repository:
    """Commits by their name, branches and tags, and who may read."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    readers: set[str] | None = None
    gated_readers: set[str] | None = None

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or a commit's own name stands for."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class HuggingFaceHub(HubServer):
    """The hub; `content` is the second server, to which it redirects for large files."""

    def __init__(self) -> None:
        super().__init__()
        self.content = _ContentServer()
        self.tokens: set[str] = set()
        self._repositories: dict[tuple[str, str], Repository] = {}

    def __enter__(self) -> Self:
        self.content.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__()
        self.content.__exit__()

    # --- what it holds ---------------------------------------------------------------------------------------

    def commit(
        self, name: str, files: Mapping[str, bytes], *, kind: str = "model", branch: str = "main"
    ) -> str:
        """Make a commit of these files, move the branch to it, and return its name."""
        repository = self._repositories.setdefault((kind, name), Repository())
        commit = hashlib.sha1(
            repr((len(repository.commits), name, sorted(files.items()))).encode()
        ).hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches[branch] = commit
        self.content.blobs.update({hashlib.sha256(data).hexdigest(): data for data in files.values()})
        return commit

    def commit_of(self, name: str, revision: str = "main", kind: str = "model") -> str | None:
        """The commit that a branch is at."""
        return self._repositories[kind, name].commit_of(revision)

    def hide(self, name: str, readers: set[str], kind: str = "model") -> None:
        """Make a repository private."""
        self._repositories[kind, name].readers = readers
        self.tokens |= readers

    def gate(self, name: str, readers: set[str], kind: str = "model") -> None:
        """Let only those download who accepted the terms; everybody sees the list of files."""
        self._repositories[kind, name].gated_readers = readers
        self.tokens |= readers

    # --- answers ---------------------------------------------------------------------------------------------

    def respond(self, request: Request) -> Answer:
        """The answer of huggingface.co."""
        if request.token is not None and request.token not in self.tokens:
            return _refusal(401, "", "Invalid credentials in Authorization header")
        if found := _API.fullmatch(request.path):
            return self._api(request, found["kind"].removesuffix("s"), found["name"], found["rest"] or "")
        if found := _RESOLVE.fullmatch(request.path):
            kind = "dataset" if found["kind"] else "model"
            return self._resolve(request, kind, found["name"], found["commit"], found["file"])
        return _refusal(404, "", "Sorry, we can't find the page you are looking for.")

    def _api(self, request: Request, kind: str, name: str, rest: str) -> Answer:
        repository = self._readable(request, kind, name)
        if isinstance(repository, Answer):
            return repository
        part, _, revision = rest.strip("/").partition("/")
        commit = repository.commit_of(revision or "main")
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if part == "tree":
            return self._tree(request, repository.commits[commit])
        siblings = [{"rfilename": file} for file in repository.commits[commit]]
        described = {
            "id": name,
            "sha": commit,
            "private": repository.readers is not None,
            "siblings": siblings,
        }
        gated: bool | str = "manual" if repository.gated_readers is not None else False
        return json_answer({**described, "gated": gated, "tags": [], "downloads": 1, "likes": 0})

    def _tree(self, request: Request, files: Mapping[str, bytes]) -> Answer:
        entries = _tree_entries(files)
        start = int(request.query.get("cursor", "0"))
        page = json_answer(entries[start : start + TREE_PAGE])
        if start + TREE_PAGE >= len(entries):
            return page
        following = f"http://{request.host}{request.path}?recursive=true&cursor={start + TREE_PAGE}"
        return Answer(page.status, page.body, {**page.headers, "Link": f'<{following}>; rel="next"'})

    def _resolve(self, request: Request, kind: str, name: str, revision: str, file: str) -> Answer:
        repository = self._readable(request, kind, name)
        if isinstance(repository, Answer):
            return repository
        if repository.gated_readers is not None and request.token not in repository.gated_readers:
            status = 403 if request.token else 401
            return _refusal(status, "GatedRepo", f"Access to {kind} {name} is restricted.")
        commit = repository.commit_of(revision)
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repository.commits[commit].get(file)
        if data is None:
            return _refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
        if _LARGE.search(file):
            return self._elsewhere(commit, data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_oid(data)}"', "Content-Type": "text/plain"}
        return Answer(200, data, headers, ranged=True)

    def _elsewhere(self, commit: str, data: bytes) -> Answer:
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {
            "Location": f"{self.content.endpoint}/repos/{sha256}?X-Amz-Signature={_ContentServer.SIGNATURE}",
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{sha256}"',
        }
        return Answer(302, b"Found. Redirecting", headers)

    def _readable(self, request: Request, kind: str, name: str) -> Repository | Answer:
        repository = self._repositories.get((kind, name))
        is_hidden = repository is not None and repository.readers is not None
        if repository is None or (is_hidden and request.token not in (repository.readers or ())):
            if request.token is None:
                return _refusal(401, "", "Invalid username or password.")
            return _refusal(404, "RepoNotFound", "Repository not found")
        return repository


class _ContentServer(HubServer):
    """Where large files are: by their SHA-256, for whoever has a signed URL. It knows no tokens."""

    SIGNATURE = "5ignature-that-may-be-in-no-log"

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}

    def respond(self, request: Request) -> Answer:
        data = self.blobs.get(request.path.rpartition("/")[2])
        if data is None or request.query.get("X-Amz-Signature") != self.SIGNATURE:
            return Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return Answer(200, data, {"Content-Type": "binary/octet-stream"}, ranged=True)


def git_oid(data: bytes) -> str:
    """The name git gives a content."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def _tree_entries(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    folders = {name.rpartition("/")[0] for name in files if "/" in name}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)
    ]
    for name, data in sorted(files.items()):
        entry: dict[str, Any] = {"type": "file", "oid": git_oid(data), "size": len(data), "path": name}
        if _LARGE.search(name):
            lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entry |= {"oid": "1" * 40, "lfs": lfs, "xetHash": "2" * 64}
        entries.append(entry)
    return entries


def _refusal(status: int, code: str, message: str, **headers: str) -> Answer:
    codes = {"X_Error_Code": code} if code else {}
    return json_answer({"error": message}, status, X_Error_Message=message, **codes, **headers)
