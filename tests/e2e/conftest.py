"""A real cluster with real pods, the operator installed by its chart, and a store: one of each for the whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import open_cluster
from devcluster.console import QUIET
from examples.quickstart.environment import Environment, start_dev_cluster
from examples.quickstart.installation import ensure_restricted_namespace
from examples.quickstart.run import credentials_secret, ensure_bucket, s3_client
from tests.builders.tiny_models import make_tokenizer, write_model
from tests.e2e import installation
from tests.e2e.bucket import Bucket
from tests.e2e.evidence import Evidence, watching_processes
from tests.e2e.jobs import LINKS, Jobs
from tests.e2e.nodes import NODES, STATE
from tests.e2e.side_by_side import OpenJobs, Stage, stories_of

# The longest one starts first. The others need the cluster for themselves, and come in this order.
FIRST = "test_quickstart.py"
ALONE = ("test_survival.py", "test_node_away.py", "test_uninstall.py", "test_security.py")
# A first run builds images; pytest counts that as part of its first test.
TIMEOUT_SECONDS = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the modules of this folder."""
    folder = Path(__file__).parent
    own = [item for item in items if item.path.parent == folder]
    for item in own:
        item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))
    ordered = iter(sorted(own, key=_place))
    items[:] = [next(ordered) if item.path.parent == folder else item for item in items]


def _place(item: pytest.Item) -> int:
    name = item.path.name
    if name == FIRST:
        return -1
    return ALONE.index(name) + 1 if name in ALONE else 0


@pytest.fixture(scope="session")
def evidence() -> Evidence:
    """What is seen of logs, objects and processes during the run."""
    return Evidence()


@pytest.fixture(scope="session")
def environment(evidence: Evidence) -> Iterator[Environment]:
    """The one-machine cluster with two nodes and the operator in a restricted namespace.

    A cluster that was there before (`make cluster-up`) stays; one that was started here goes.
    """
    was_running = devcluster("status") == 0
    environment = start_dev_cluster("--nodes", "2", "--gpus", "4")
    offer_links(environment)
    with watching_processes(evidence):
        installation.install(environment)
        if was_running:
            # The image that was just built has the name of the one before.
            installation.restart(environment)
        os.environ["PATH"] = environment.variables["PATH"]
        yield environment
    if not was_running:
        assert devcluster("down") == 0


def devcluster(command: str) -> int:
    """Run a command of the dev cluster's; its exit status."""
    return subprocess.run([sys.executable, "-m", "devcluster", command], stdout=subprocess.DEVNULL).returncode


def offer_links(environment: Environment) -> None:
    """Let each node offer one link of each kind, as it offers its stand-in GPUs."""
    links = [
        {"op": "add", "path": f"/status/{where}/{link.replace('/', '~1')}", "value": "1"}
        for where in ("capacity", "allocatable")
        for link in LINKS
    ]
    for node in NODES:
        environment.run(
            *("kubectl", "patch", "node", node.name, "--subresource=status", "--type=json"),
            *("-p", json.dumps(links)),
            quiet=True,
        )


@pytest.fixture(scope="session")
def bucket(environment: Environment, tiny_base: Path) -> Bucket:
    """The bucket with the tiny base model and the rows that all jobs learn."""
    bucket = Bucket(s3_client(environment.store), "e2e")
    ensure_bucket(bucket.client, bucket.name)
    for file in tiny_base.iterdir():
        bucket.put(f"base/{file.name}", file.read_bytes())
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in training_rows())
    bucket.put("data/train.jsonl", lines.encode())
    return bucket


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 with its own tokenizer."""
    return write_model(tmp_path_factory.mktemp("base"), vocab_size=len(make_tokenizer()))


def training_rows(count: int = 64) -> Iterator[dict[str, Any]]:
    """Rows of different lengths, in two languages."""
    for number in range(count):
        question = (
            f"Where is parcel {number}? " * (1 + number % 4)
            if number % 2
            else f"订单{number}在哪里？" * (1 + number % 3)
        )
        answer = f"Parcel {number} is on its way." if number % 2 else f"订单{number}正在路上。"
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="session")
def open_jobs(environment: Environment, bucket: Bucket, evidence: Evidence) -> OpenJobs:
    """Opens a restricted namespace with the credentials Secret; what it shows is kept, and told when a test fails."""
    api = open_cluster(STATE.root, QUIET).control_plane.client

    @contextmanager
    def open_namespace() -> Iterator[Jobs]:
        jobs = Jobs(environment, api, f"e2e-{uuid.uuid4().hex[:8]}", bucket, evidence)
        ensure_restricted_namespace(environment, jobs.namespace)
        jobs.create(credentials_secret(environment.store, jobs.manifest("any")))
        try:
            with jobs.telling():
                yield jobs
        finally:
            jobs.kubectl("delete", "namespace", jobs.namespace, "--wait=false", "--ignore-not-found")

    return open_namespace


@pytest.fixture
def jobs(open_jobs: OpenJobs) -> Iterator[Jobs]:
    """A namespace for one test that needs the cluster for itself."""
    with open_jobs() as jobs:
        yield jobs


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Let the namespaces of a test that fails tell; their fixtures do not hear of it."""
    given = [getattr(each, "jobs", each) for each in pyfuncitem.funcargs.values()]
    with ExitStack() as telling:
        for each in given:
            if isinstance(each, Jobs):
                telling.enter_context(each.telling())
        return (yield)


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest, open_jobs: OpenJobs) -> Iterator[Stage]:
    """Where the tests of this session that need not be alone run side by side."""
    with Stage(stories_of(request.session.items), open_jobs) as stage:
        yield stage
