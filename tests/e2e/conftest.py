"""A real cluster with real pods, the operator installed by its chart, and a store: one of each for the whole run."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from examples.quickstart.environment import Environment
from tests.builders.tiny_models import make_tokenizer, write_model
from tests.e2e import installation
from tests.e2e.bucket import Bucket, fill_bucket
from tests.e2e.dev_cluster import running_cluster
from tests.e2e.evidence import Evidence, watching_processes
from tests.e2e.jobs import Jobs, create_jobs
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
    with running_cluster() as cluster:
        environment = cluster.environment
        with watching_processes(evidence):
            installation.install(environment)
            if cluster.was_running:
                # The image that was just built has the name of the one before.
                installation.restart(environment)
            os.environ["PATH"] = environment.variables["PATH"]
            yield environment


@pytest.fixture(scope="session")
def bucket(environment: Environment, tiny_base: Path) -> Bucket:
    """The bucket with the tiny base model and the rows that all jobs learn."""
    return fill_bucket(environment.store, "e2e", tiny_base)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 with its own tokenizer."""
    return write_model(tmp_path_factory.mktemp("base"), vocab_size=len(make_tokenizer()))


@pytest.fixture(scope="session")
def open_jobs(environment: Environment, bucket: Bucket, evidence: Evidence) -> OpenJobs:
    """Opens a restricted namespace with the credentials Secret; what it shows is kept, and told when a test fails."""

    @contextmanager
    def open_namespace() -> Iterator[Jobs]:
        jobs = create_jobs(environment, f"e2e-{uuid.uuid4().hex[:8]}", bucket, evidence)
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
