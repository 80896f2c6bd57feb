"""A stand-in for modelscope.cn on loopback that speaks its protocol: revisions, lists of files, and files by commit.

    with ModelScopeHub() as hub:
        hub.commit("Qwen/tiny", {"config.json": b"{}", "model.safetensors": data})
        hub.hide("org/private", readers={"reader-token"})
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.endpoint)

What it answers follows modelscope.cn's /api/v1: an envelope of Code, Data, Message, Success; every entry of a list with
its SHA-256 and the commit that last changed it; data sets in pages; large files by a redirect. Under the names of the
region's service, which the library's own downloads ask, it points at Alibaba Cloud's metadata address.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.stand_ins.hub_server import Answer, HubServer, Request, json_answer

_PATH = re.compile(
    r"/api/v1/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/(?P<what>revisions|repo(/files|/tree)?)"
)
_LARGE = ".safetensors"


@dataclass
class Repository:
    """Its commits, oldest first: name, and all files with the commit that last changed each."""

    commits: dict[str, dict[str, tuple[bytes, str]]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    readers: set[str] | None = None


class ModelScopeHub(HubServer):
    """The hub."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: set[str] = set()
        self._repositories: dict[tuple[str, str], Repository] = {}

    def commit(
        self, name: str, files: Mapping[str, bytes], *, kind: str = "model", branch: str = "master"
    ) -> str:
        """Make a commit of these files, move the branch to it, and return its name."""
        repository = self._repositories.setdefault((kind, name), Repository())
        commit = hashlib.sha1(
            repr((len(repository.commits), name, sorted(files.items()))).encode()
        ).hexdigest()
        before = repository.commits.get(repository.branches.get(branch, ""), {})
        repository.commits[commit] = {
            file: before[file] if file in before and before[file][0] == data else (data, commit)
            for file, data in files.items()
        }
        repository.branches[branch] = commit
        return commit

    def hide(self, name: str, readers: set[str], kind: str = "model") -> None:
        """Make a repository private."""
        self._repositories[kind, name].readers = readers
        self.tokens |= readers

    def respond(self, request: Request) -> Answer:
        """The answer of modelscope.cn."""
        if request.path == "/api/v1/repos/internalAccelerationInfo":
            return _envelope(
                {"InternalRegionQueryAddress": "http://100.100.100.200/latest/meta-data/region-id"}
            )
        if request.path.startswith("/content/"):
            return self._content(request)
        if request.token is not None and request.token not in self.tokens:
            return _refusal(401, 10010103009, "AccessToken is invalid or expired")
        found = _PATH.fullmatch(request.path)
        if found is None:
            return _refusal(404, 404, "page not found")
        repository = self._repositories.get((found["kind"].removesuffix("s"), found["name"]))
        if repository is None or (repository.readers is not None and request.token not in repository.readers):
            return _refusal(404, 10010205001, "获取模型版本失败，信息：record not found")
        return self._of_repository(request, repository, found["what"])

    def _of_repository(self, request: Request, repository: Repository, what: str) -> Answer:
        if what == "revisions":
            branches = [{"Revision": branch, "CreatedAt": 0} for branch in repository.branches]
            return _envelope({"RevisionMap": {"Branches": branches, "Tags": []}})
        revision = request.query.get("Revision", "master")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return _refusal(404, 10010205002, "revision not found")
        files = repository.commits[commit]
        if what != "repo":
            return _envelope(self._listing(request, repository, files))
        return self._file(request, files)

    def _listing(
        self, request: Request, repository: Repository, files: Mapping[str, tuple[bytes, str]]
    ) -> dict[str, Any]:
        order = list(repository.commits)
        entries = [
            {
                "Name": name.rpartition("/")[2], "Path": name, "Type": "blob", "Size": len(data), "Mode": "33188",
                "Sha256": hashlib.sha256(data).hexdigest(), "Revision": commit, "IsLFS": name.endswith(_LARGE),
                "CommittedDate": 1_700_000_000 + order.index(commit),
            }
            for name, (data, commit) in sorted(files.items())
        ]  # fmt: skip
        folders = sorted({name.rpartition("/")[0] for name in files if "/" in name})
        entries = [{"Name": name, "Path": name, "Type": "tree", "Size": 0} for name in folders] + entries
        size = int(request.query.get("PageSize", "100000"))
        start = (int(request.query.get("PageNumber", "1")) - 1) * size
        return {
            "Files": entries[start : start + size],
            "LatestCommitter": {"Id": ""},
            "TotalCount": len(entries),
        }

    def _file(self, request: Request, files: Mapping[str, tuple[bytes, str]]) -> Answer:
        name = request.query.get("FilePath", "")
        if name not in files:
            return _refusal(404, 10010206001, "file not found")
        data = files[name][0]
        if name.endswith(_LARGE):
            return Answer(302, headers={"Location": f"/content/{hashlib.sha256(data).hexdigest()}?Expires=1"})
        return Answer(200, data, {"Content-Type": "application/octet-stream"}, ranged=True)

    def _content(self, request: Request) -> Answer:
        sha256 = request.path.rpartition("/")[2]
        for repository in self._repositories.values():
            for files in repository.commits.values():
                for data, _ in files.values():
                    if hashlib.sha256(data).hexdigest() == sha256:
                        return Answer(200, data, ranged=True)
        return Answer(404)


def _envelope(data: Any) -> Answer:
    return json_answer({"Code": 200, "Data": data, "Message": "success", "RequestId": "1", "Success": True})


def _refusal(status: int, code: int, message: str) -> Answer:
    return json_answer(
        {"Code": code, "Data": None, "Message": message, "RequestId": "1", "Success": False}, status
    )
