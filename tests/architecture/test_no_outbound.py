"""The operator opens no URL from a spec: it talks to the API server, whose address comes from its own login, and to
nobody else. It runs with rights in many namespaces and stands inside the cluster's network, so a request that a user
could aim would reach what the user cannot."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OPERATOR = Path(__file__).parents[2] / "operator/finetune_operator"
# Whoever connects. cluster.py and api_requests.py send every request of ours, login.py hands kopf the session for its watches.
CONNECTING = {"cluster.py", "api_requests.py", "login.py"}
SERVING = {"aiohttp.web", "aiohttp.http_exceptions"}
HARMLESS = {"urllib.parse", "http.HTTPStatus", *SERVING}
OUTBOUND_MODULES = {
    "aiohttp",
    "asyncssh",
    "boto3",
    "botocore",
    "ftplib",
    "http",
    "httpx",
    "imaplib",
    "kubernetes",
    "multiprocessing",
    "poplib",
    "requests",
    "smtplib",
    "socket",
    "socketserver",
    "subprocess",
    "telnetlib",
    "urllib",
    "urllib3",
    "webbrowser",
    "websockets",
    "xmlrpc",
}
# By whatever name a module was imported, these open a connection or start somebody who can.
OPENERS = {
    "ApiClient",
    "ClientSession",
    "TCPConnector",
    "UnixConnector",
    "create_connection",
    "create_datagram_endpoint",
    "create_subprocess_exec",
    "create_subprocess_shell",
    "create_unix_connection",
    "getaddrinfo",
    "open_connection",
    "open_unix_connection",
    "sock_connect",
    "urlopen",
    "urlretrieve",
    "system",
    "popen",
    "execv",
    "execve",
    "posix_spawn",
    "__import__",
    "import_module",
}


def modules() -> list[Path]:
    return sorted(OPERATOR.rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Every imported name, dotted, also of imports inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def can_connect(imported: str) -> bool:
    return imported.split(".")[0] in OUTBOUND_MODULES and not any(
        imported == each or imported.startswith(f"{each}.") for each in HARMLESS
    )


def used_names(tree: ast.Module) -> set[str]:
    """Names that are called, read or handed on, by whatever path."""
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_only_two_modules_have_anything_to_connect_with() -> None:
    """liveness.py measures the session that login.py opens, and needs the names of its types."""
    found = {path.name for path in modules() if any(can_connect(each) for each in imports(parse(path)))}

    assert found == CONNECTING | {"liveness.py"}


def test_nobody_else_opens_a_connection_or_starts_a_process() -> None:
    found = {path.name: used_names(parse(path)) & OPENERS for path in modules()}

    # api_requests.py sends with what cluster.py opened.
    assert {name for name, openers in found.items() if openers} == CONNECTING - {"api_requests.py"}


@pytest.mark.parametrize("name", sorted(CONNECTING))
def test_what_connects_does_not_know_specs(name: str) -> None:
    tree = parse(OPERATOR / name)

    assert not [each for each in imports(tree) if each.startswith("finetune_api.spec")]
    assert "spec" not in used_names(tree)


def test_every_request_goes_to_the_server_of_the_login() -> None:
    """One call sends them all, and its URL begins with the host that cluster.py takes from the configuration."""
    tree = parse(OPERATOR / "api_requests.py")
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("rest_client.request")
    ]
    urls = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "url"
    ]

    assert [ast.unparse(call.args[1]) for call in calls] == ["url"]
    (url,) = urls
    assert isinstance(url, ast.JoinedStr)
    assert isinstance(url.values[0], ast.FormattedValue)
    assert ast.unparse(url.values[0].value) == "self._host"
    given = [
        ast.unparse(node)
        for node in ast.walk(parse(OPERATOR / "cluster.py"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ApiRequests"
    ]
    assert len(given) == 1
    assert "configuration.host" in given[0]


def test_the_watches_go_to_the_server_of_the_login() -> None:
    sessions = [
        node
        for node in ast.walk(parse(OPERATOR / "login.py"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "kopf.AiohttpSession"
    ]

    told = [ast.unparse(word.value) for call in sessions for word in call.keywords if word.arg == "server"]
    assert told == ["connection.server"]
