"""The command line: help, version, and errors as one sentence on standard error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FINETUNE = str(Path(sys.executable).with_name("finetune"))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FINETUNE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "120", **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pull", "bot", "--kubeconfig", "/nonexistent/config"], "No cluster to ask"),
        (["pull", "bot"], "Name a kubeconfig with --kubeconfig or KUBECONFIG."),
        (["ask", "/nonexistent/model", "hello"], "Pull a model first: finetune pull NAME."),
        (["ask", "/", "hello"], "it is no model"),
    ],
    ids=["a kubeconfig that is not there", "no kubeconfig at all", "no folder", "a folder without a model"],
)
def test_an_error_is_a_sentence(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_context_that_does_not_exist_is_named_beside_those_that_do(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n"
        "contexts: [{name: lab, context: {cluster: lab, user: lab}}]\n"
        "clusters: [{name: lab, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: lab, user: {}}]\n"
    )
    result = run("pull", "bot", "--kubeconfig", str(config), "--context", "prod")
    assert result.returncode == 1
    assert "no context 'prod'. It has: lab." in result.stderr


def test_the_help_names_both_commands() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "pull" in result.stdout
    assert "ask" in result.stdout


def test_the_version_is_the_distributions() -> None:
    assert run("--version").stdout.strip().count(".") == 2


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, finetune_cli.main; "
        "print(sorted({'torch', 'transformers', 'boto3', 'kubernetes', 'rich.progress'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
