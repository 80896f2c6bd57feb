"""Rights of a ServiceAccount, from two sides: what the cluster's roles grant it, and what it was seen to use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from devcluster import ControlPlane

RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True, order=True)
class Right:
    """A verb on a resource (`group/resource/subresource`, the core group's without group)."""

    resource: str
    verb: str


@dataclass(frozen=True)
class Account:
    """A ServiceAccount."""

    namespace: str
    name: str

    @property
    def user(self) -> str:
        """Its name as a user of the API."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"


@dataclass(frozen=True)
class Use:
    """A request that was made with a right, when (seconds since 1970), and whether it was allowed."""

    right: Right
    namespace: str
    name: str
    allowed: bool
    time: float


def read_granted(cluster: ControlPlane, account: Account) -> set[Right]:
    """Read what roles grant to the account by name, wherever they are bound."""
    return {right for rule in _rules(cluster, account) for right in _rights(rule)}


def read_used(cluster: ControlPlane, account: Account) -> Iterator[Use]:
    """Read the account's requests from the API server's audit log."""
    with cluster.audit_log.open() as log:
        for line in log:
            if account.user not in line:
                continue
            entry = json.loads(line)
            if entry["user"]["username"] == account.user and "objectRef" in entry:
                yield from _uses(entry)


def _uses(entry: dict[str, Any]) -> Iterator[Use]:
    target = entry["objectRef"]
    resource = _name(target.get("apiGroup", ""), target["resource"], target.get("subresource", ""))
    allowed = entry["annotations"]["authorization.k8s.io/decision"] == "allow"
    verbs = [entry["verb"]]
    # An apply that creates is asked for the right to create as well, which the log does not show by itself.
    if entry["verb"] == "patch" and entry["responseStatus"]["code"] == 201:
        verbs.append("create")
    time = datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp()
    for verb in verbs:
        yield Use(Right(resource, verb), target.get("namespace", ""), target.get("name", ""), allowed, time)


def _rules(cluster: ControlPlane, account: Account) -> Iterator[dict[str, Any]]:
    subject = {"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}
    for kind in ("rolebindings", "clusterrolebindings"):
        for binding in _list(cluster, f"{RBAC}/{kind}"):
            if subject in binding.get("subjects", ()):
                yield from _role(cluster, binding)["rules"]


def _role(cluster: ControlPlane, binding: dict[str, Any]) -> dict[str, Any]:
    reference, namespace = binding["roleRef"], binding["metadata"].get("namespace")
    folder = f"/namespaces/{namespace}/roles" if reference["kind"] == "Role" else "/clusterroles"
    return cast(dict[str, Any], cluster.client.read(f"{RBAC}{folder}/{reference['name']}"))


def _rights(rule: dict[str, Any]) -> Iterator[Right]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield Right(_name(group, *resource.partition("/")[::2]), verb)


def _name(group: str, resource: str, subresource: str) -> str:
    return "/".join(filter(None, (group, resource, subresource)))


def _list(cluster: ControlPlane, path: str) -> list[dict[str, Any]]:
    listed = cast(dict[str, Any], cluster.client.read(path))
    return cast(list[dict[str, Any]], listed["items"])
