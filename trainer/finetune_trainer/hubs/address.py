"""A hub's repository as a job names it, and what the hub lists of it. Words only: nothing is sent from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from finetune_trainer.errors import UserError


class Hub(StrEnum):
    """A model hub; the value is the scheme of its URIs."""

    HUGGING_FACE = "hf"
    MODEL_SCOPE = "modelscope"

    @property
    def label(self) -> str:
        """The hub's name, for messages."""
        return {Hub.HUGGING_FACE: "Hugging Face", Hub.MODEL_SCOPE: "ModelScope"}[self]


class RepositoryKind(StrEnum):
    """What a repository holds."""

    MODEL = "model"
    DATASET = "dataset"


@dataclass(frozen=True)
class HubToken:
    """A token, and the Secret it came from. Only the Secret may stand in a message."""

    value: str = field(repr=False)
    secret: str
    key: str

    def __str__(self) -> str:
        return f"key {self.key} of Secret '{self.secret}'"


@dataclass(frozen=True)
class RepositoryAddress:
    """A repository, the version that is wanted (None: the main branch), and where the job names it."""

    hub: Hub
    kind: RepositoryKind
    name: str
    revision: str | None = None
    token: HubToken | None = None
    place: str = "model"

    @property
    def uri(self) -> str:
        """The URI as a job writes it, for messages."""
        return f"{self.hub}://{self.name}"

    def page(self, endpoint: str) -> str:
        """The repository's page for people."""
        folder = {
            (Hub.HUGGING_FACE, RepositoryKind.MODEL): "",
            (Hub.HUGGING_FACE, RepositoryKind.DATASET): "datasets/",
            (Hub.MODEL_SCOPE, RepositoryKind.MODEL): "models/",
            (Hub.MODEL_SCOPE, RepositoryKind.DATASET): "datasets/",
        }[self.hub, self.kind]
        return f"{endpoint}/{folder}{self.name}"


@dataclass(frozen=True)
class HubFile:
    """One listed file. `sha256` is known for large files, `git_oid` (Hugging Face) for all."""

    name: str
    size_bytes: int
    sha256: str | None = None
    git_oid: str | None = None
    # ModelScope: the commit that last changed this file, by which it stays the same when the branch moves.
    revision: str | None = None

    @property
    def identity(self) -> str | None:
        """What tells this content from any other: the strongest digest that the hub lists; None if there is none."""
        if self.sha256 is not None:
            return f"sha256:{self.sha256}"
        return f"git:{self.git_oid}" if self.git_oid is not None else None


@dataclass(frozen=True)
class HubSnapshot:
    """A repository at one commit."""

    commit: str
    files: tuple[HubFile, ...]

    def file(self, name: str) -> HubFile | None:
        """The file of that name, if there is one."""
        return next((file for file in self.files if file.name == name), None)


def parse_hub_uri(uri: str) -> tuple[Hub, str, str | None]:
    """Split `hf://org/name[:config]` into hub, name and configuration. Raises UserError for another URI."""
    scheme, separator, rest = uri.partition("://")
    name, _, config = rest.partition(":")
    parts = name.strip("/").split("/")
    if not separator or scheme not in set(Hub) or len(parts) != 2 or not all(parts):
        raise UserError(f"'{uri}' names no hub's repository. Write hf://org/name or modelscope://org/name.")
    return Hub(scheme), "/".join(parts), config or None


def is_hub_uri(uri: str) -> bool:
    """Whether a URI's scheme is that of a hub."""
    return uri.partition("://")[0] in set(Hub)
