"""`kubectl describe finetunejob`, with what differs from run to run taken out, against the golden files.

What a person sees of a failed job must answer, without reading logs: what failed, where, at which step, whether it was
retried and why (not), what to do next. `UPDATE_GOLDEN=1` writes the files anew; their diff is then to be read.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from finetune_api import GROUP, PLURAL
from tests.integration.operator.api_client import Api

GOLDEN = Path(__file__).parents[2] / "golden" / "describe"
_SUBSTITUTIONS = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<time>"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uid>"),
    (re.compile(r"(runs/[a-z-]+)-[0-9a-f]{8}\b"), r"\1-<uid>"),
    (re.compile(r"((?:prepare|train|export|cleanup)-\d+(?:-\d+)?)-[a-z0-9]{5}\b"), r"\1-<pod>"),
    # Other tests have nodes, too.
    (re.compile(r"\d+/\d+ nodes are available: .*?(?= Lower spec)"), "<the words of the scheduler>."),
    (re.compile(r"(Active Seconds: +)\d+"), r"\1<seconds>"),
)
# Type, reason, age, from, message.
_EVENT = re.compile(r"^  (Normal|Warning) +(\w+) +\S+(?: \(x\d+ over \S+\))? +(\S+) +(.*)$")


# Whether they are told depends on how fast this machine is.
VOLATILE_EVENTS = frozenset({"Restarting", "Unschedulable"})


def check_description(api: Api, name: str, golden: str, volatile: frozenset[str] = VOLATILE_EVENTS) -> None:
    """Compare what `kubectl describe` says about a job, but for some events, with a golden file."""
    path = GOLDEN / f"{golden}.txt"
    said = normalise(describe(api, name), api, volatile)
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(said)
    assert path.exists(), f"{path} is missing: run this test once with UPDATE_GOLDEN=1"
    assert said == path.read_text(), (
        f"{path.name} differs: if that is meant, run this test with UPDATE_GOLDEN=1"
    )


def describe(api: Api, name: str) -> str:
    """What `kubectl describe` prints."""
    command = ["kubectl", "--kubeconfig", str(api.kubeconfig), "-n", api.namespace]
    told = subprocess.run(
        [*command, "describe", f"{PLURAL}.{GROUP}", name],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return told.stdout


def normalise(text: str, api: Api, volatile: frozenset[str]) -> str:
    """Keep status and events; take out times, uids, numbers of nodes and the order of events of the same second."""
    text = text[text.index("\nStatus:\n") + 1 :].replace(api.namespace, "<namespace>")
    for pattern, replacement in _SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
    lines = [line.rstrip() for line in text.splitlines()]
    if "Events:" not in text:
        return "\n".join(lines) + "\n"
    start = next(index for index, line in enumerate(lines) if line.startswith("Events:"))
    events = sorted(
        f"  {m[1]}  {m[2]}  {m[3]}  {m[4]}"
        for line in lines[start:]
        if (m := _EVENT.match(line)) and m[2] not in volatile
    )
    return "\n".join([*lines[:start], "Events:", *events]) + "\n"
