"""What the tree must and must not hold."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def imported_modules(path: Path) -> set[str]:
    """Top-level names of every import in a file, also of those inside functions."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.split(".")[0])
    return modules


def importers(package: str, *modules: str) -> set[str]:
    folder = ROOT / package
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if imported_modules(path) & set(modules)
    }


def test_the_operator_folder_is_no_package() -> None:
    """`operator/__init__.py` would shadow the standard library's operator for every Python started here."""
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_only_cluster_py_talks_to_kubernetes() -> None:
    assert importers("operator/finetune_operator", "kubernetes") == {"cluster.py"}


def test_kopf_stays_at_the_rim() -> None:
    assert importers("operator/finetune_operator", "kopf") <= {
        "handlers.py",
        "login.py",
        "kopf_settings.py",
        "reactor.py",
    }


@pytest.mark.parametrize("package", ["trainer/finetune_trainer", "cli/finetune_cli"])
def test_only_the_storage_module_talks_to_s3(package: str) -> None:
    found = importers(package, "boto3", "botocore", "s3transfer")
    assert {path.partition("/")[0].removesuffix(".py") for path in found} == {"storage"}


def test_no_module_has_grown_past_four_hundred_lines() -> None:
    packages = ("operator", "trainer", "crds", "cli", "devcluster")
    large = {
        path.relative_to(ROOT).as_posix(): lines
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }

    assert large == {}


def test_no_large_file_is_tracked() -> None:
    large = [
        path.name for path in tracked_files() if path.stat().st_size > 2_000_000 and path.name != "uv.lock"
    ]

    assert large == []


def test_every_test_that_the_list_of_faults_names_is_there() -> None:
    listed = re.findall(
        r"\| `((?:integration|e2e)/[\w/]+\.py)(?:::(\w+))?` \|", (ROOT / "docs/faults.md").read_text()
    )

    missing = [
        f"{path}::{name}"
        for path, name in listed
        if not (ROOT / "tests" / path).is_file() or f"def {name}" not in (ROOT / "tests" / path).read_text()
    ]

    assert len(listed) > 30
    assert missing == []
