"""Rules of the Containerfiles that a build alone would not show broken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONTAINERFILES = sorted((ROOT / "images").glob("*/Containerfile"))


@pytest.fixture(params=CONTAINERFILES, ids=[path.parent.name for path in CONTAINERFILES])
def instructions(request: pytest.FixtureRequest) -> list[str]:
    """The instructions of one Containerfile, continuation lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", request.param.read_text(), flags=re.MULTILINE)
    return [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def final_stages(instructions: list[str]) -> list[list[str]]:
    """The stages that are images of ours: those that end with a USER."""
    stages: list[list[str]] = []
    for instruction in instructions:
        if instruction.startswith("FROM "):
            stages.append([])
        if stages:
            stages[-1].append(instruction)
    return [stage for stage in stages if any(each.startswith("USER ") for each in stage)]


def test_there_are_two_containerfiles_with_three_images() -> None:
    assert [path.parent.name for path in CONTAINERFILES] == ["operator", "trainer"]


def test_the_base_is_one_argument_pinned_by_digest(instructions: list[str]) -> None:
    (default,) = [line for line in instructions if line.startswith("ARG BASE=")]
    assert re.fullmatch(r"ARG BASE=python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}", default)
    stages = {line.split(" AS ")[1] for line in instructions if " AS " in line}
    bases = {line.split()[1] for line in instructions if line.startswith("FROM ")}
    assert bases - stages == {"${BASE}"}


def test_images_run_as_a_numeric_user_and_start_without_a_shell(instructions: list[str]) -> None:
    assert final_stages(instructions)
    for stage in final_stages(instructions):
        assert [line for line in stage if line.startswith("USER ")] == ["USER 65532:65532"]
    (entrypoint,) = [line for line in instructions if line.startswith("ENTRYPOINT ")]
    assert json.loads(entrypoint.removeprefix("ENTRYPOINT "))[:2] == ["python", "-m"]


def test_our_code_is_the_last_layer(instructions: list[str]) -> None:
    for stage in final_stages(instructions):
        assert stage[-1] == "COPY --from=code /opt/finetune /opt/finetune"


def test_dependencies_come_from_the_lock_file_with_their_hashes(instructions: list[str]) -> None:
    installs = [
        line for line in instructions if re.search(r"uv sync|install-layer .*-r|pip install -r", line)
    ]
    assert installs
    for line in installs:
        assert (
            "--frozen" in line
            or "--require-hashes" in line
            or "PIP_REQUIRE_HASHES=1" in " ".join(instructions)
        )


def test_both_build_with_the_uv_that_wrote_the_lock_file(instructions: list[str]) -> None:
    pinned = re.search(r"uv==([\d.]+)", (ROOT / "tools/bootstrap_uv.py").read_text())
    assert pinned
    assert f"ARG UV_VERSION={pinned[1]}" in instructions


def test_only_what_is_copied_reaches_the_build(instructions: list[str]) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = [
        line.split()[1:-1] for line in instructions if line.startswith("COPY ") and "--from" not in line
    ]
    sources = {source for copy in copies for source in copy}
    assert sources <= set(allowed)
