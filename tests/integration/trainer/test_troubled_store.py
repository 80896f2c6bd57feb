"""Bars B-9 and B-10, faults F24 to F26: whole runs through a store that errs, is slow, is full, refuses, or is gone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bars import Bar, Figure
from benchmarks.faults import record
from devcluster import S3Server
from finetune_api.exit_codes import ExitCode
from finetune_api.layout import CHECKPOINT_MANIFEST_NAME
from finetune_api.names import Stage
from finetune_api.spec import Store
from finetune_trainer.storage import ObjectStore
from tests.builders.checkpoints import committed_steps, uncommitted_folders, unfinished_uploads
from tests.builders.deadlines import wait_until
from tests.builders.forked_pods import ForkedPods, slow_steps
from tests.builders.tiny_models import write_model
from tests.builders.training_runs import BUCKET, SETTINGS, StageProcess, TrainingRun
from tests.integration.trainer.runs import Ending, ending_of
from tests.stand_ins.s3_proxy import S3Proxy, requests

STEPS, INTERVAL = 24, 3
SAVING = {
    **SETTINGS,
    "training__maxSteps": STEPS,
    "checkpoints__everySteps": INTERVAL,
    "training__loggingSteps": 1,
}
ENDLESS = {**SAVING, "training__maxSteps": 2000}
STEP_SECONDS = 0.1
SHARE_503, SHARE_RESET = 0.05, 0.01
OUTAGE_SECONDS, LATENCY_SECONDS = 3.0, 0.02
LONG_OUTAGE_SECONDS, LONG_LATENCY_SECONDS, LONG_STEPS, PAIRS = 30.0, 0.2, 500, 3
PODS = ForkedPods(slow_steps(STEP_SECONDS))


@pytest.fixture(scope="module")
def prepared(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingRun, Ending, int]:
    """A run, how it ends where nothing goes wrong, and how many requests that takes."""
    run = TrainingRun(server, tmp_path_factory.mktemp("trouble"), "b9b9b901-0000", SAVING, pods=PODS)
    run.run(Stage.PREPARE)
    with S3Proxy(server.endpoint) as proxy:
        run.endpoint = proxy.url
        run.run(Stage.TRAIN)
        asked = proxy.count()
    run.endpoint = None
    return run, ending_of(run), asked


@pytest.fixture
def run(prepared: tuple[TrainingRun, Ending, int], proxy: S3Proxy) -> Iterator[TrainingRun]:
    """The run, not begun, whose store is behind the proxy."""
    run, _, _ = prepared
    run.start_over()
    run.endpoint = proxy.url
    yield run
    proxy.heal()
    run.endpoint = None


@pytest.fixture
def endless(server: S3Server, proxy: S3Proxy, tmp_path: Path) -> TrainingRun:
    """A run in a bucket of its own that has not ended when the test has, unless it is made to."""
    (server.data / "gone-soon").mkdir(exist_ok=True)
    changes = {**ENDLESS, "output__uri": "s3://gone-soon/out"}
    run = TrainingRun(server, tmp_path, "b9b9b902-0000", changes, pods=PODS)
    run.run(Stage.PREPARE)
    run.endpoint = proxy.url
    return run


def left_over(run: TrainingRun) -> list[str]:
    """B-10: what stands below the run, was begun, and is not committed."""
    layout = run.job(Stage.TRAIN).layout
    results = [info.name.partition("/") for info in run.store.list_objects(layout.trained_uri)]
    committed = {number for number, _, name in results if name == CHECKPOINT_MANIFEST_NAME}
    return [
        *(f"upload of {name}" for name in unfinished_uploads(run.store, layout)),
        *(f"checkpoints/{name}" for name in uncommitted_folders(run.store, layout)),
        *(f"trained/{number}" for number in {number for number, _, _ in results} - committed),
    ]


def go_wrong(proxy: S3Proxy, latency_seconds: float) -> None:
    """The store is far, sometimes told to slow down, and sometimes loses a connection."""
    proxy.delay(latency_seconds, to=requests())
    proxy.answer(503, code="SlowDown", to=requests(), times=math.inf, share=SHARE_503)
    proxy.reset(to=requests(), times=math.inf, share=SHARE_RESET)


# --- B-9 and B-10 ----------------------------------------------------------------------------------------------


def test_a_run_through_a_troubled_store_is_the_undisturbed_one(
    run: TrainingRun, proxy: S3Proxy, prepared: tuple[TrainingRun, Ending, int]
) -> None:
    _, unbroken, asked = prepared
    go_wrong(proxy, LATENCY_SECONDS)
    process = run.start(Stage.TRAIN)
    process.wait_for_checkpoint()
    proxy.outage(OUTAGE_SECONDS)
    assert process.wait() == 0, process.log
    assert ending_of(run) == unbroken
    assert left_over(run) == []
    assert proxy.count() <= 2 * asked


def test_nothing_is_left_over_by_pods_that_were_killed_while_they_wrote(
    run: TrainingRun, proxy: S3Proxy, prepared: tuple[TrainingRun, Ending, int]
) -> None:
    """One in a checkpoint, one in the result."""
    for unwritten in (f"/step-{INTERVAL:08d}/.*/manifest.json", "/trained/.*/manifest.json"):
        writing = proxy.pause(to=requests("PUT", unwritten))
        process = run.start(Stage.TRAIN)
        writing.reached(120)
        process.kill()
        # What the dead one was about to write is lost with it.
        proxy.outage()
        proxy.heal()
    run.run(Stage.TRAIN)
    assert ending_of(run) == prepared[1]
    assert left_over(run) == []


def test_nothing_is_left_over_of_an_upload_in_parts(server: S3Server, proxy: S3Proxy, tmp_path: Path) -> None:
    """A state of more than two parts, for which the model gets a large vocabulary."""
    write_model(tmp_path / "base", vocab_size=90_000)
    files = {f"s3://{BUCKET}/large/{path.name}": path for path in (tmp_path / "base").iterdir()}
    ObjectStore.open(Store(endpoint=server.endpoint)).upload_files(files)
    changes = {
        **SAVING,
        "model__source": f"s3://{BUCKET}/large",
        "method": {"type": "Full"},
        "training__maxSteps": 8,
        "training__globalBatchSize": 2,
        "checkpoints__everySteps": 2,
    }
    changes.pop("method__lora")
    run = TrainingRun(server, tmp_path / "run", "b9b9b903-0000", changes, pods=PODS)
    run.run(Stage.PREPARE)
    run.endpoint = proxy.url
    layout = run.job(Stage.TRAIN).layout
    part = proxy.pause(to=requests("PUT", "/checkpoints/", query="partNumber=2"))
    process = run.start(Stage.TRAIN)
    part.reached(100)
    process.kill()
    proxy.heal()
    run.endpoint = None
    assert unfinished_uploads(run.store, layout) != []
    run.run(Stage.TRAIN)
    assert left_over(run) == []


@pytest.mark.long_fault
@pytest.mark.timeout(3600)
def test_what_a_troubled_store_costs(server: S3Server, tmp_path: Path) -> None:
    changes = {**SAVING, "training__maxSteps": LONG_STEPS, "checkpoints__everySteps": 20}
    run = TrainingRun(server, tmp_path, "b9b9b904-0000", changes, pods=PODS)
    run.run(Stage.PREPARE)
    speeds: dict[bool, list[float]] = {False: [], True: []}
    counts: dict[bool, list[int]] = {False: [], True: []}
    left: list[str] = []
    for _ in range(PAIRS):
        endings = []
        for is_troubled in (False, True):
            run.endpoint = None
            run.start_over()
            with S3Proxy(server.endpoint) as proxy:
                run.endpoint = proxy.url
                if is_troubled:
                    go_wrong(proxy, LONG_LATENCY_SECONDS)
                process = run.start(Stage.TRAIN)
                process.wait_for_checkpoint()
                if is_troubled:
                    proxy.outage(LONG_OUTAGE_SECONDS)
                assert process.wait() == 0, process.log
                counts[is_troubled].append(proxy.count())
            run.endpoint = None
            lines = run.metrics()
            speeds[is_troubled].append(
                sum(line["tokens"] for line in lines) / sum(line["seconds"] for line in lines)
            )
            endings.append(ending_of(run))
            left += left_over(run)
        assert endings[0] == endings[1]
    lost = [100 * (1 - troubled / well) for well, troubled in zip(speeds[False], speeds[True], strict=True)]
    more = [troubled / well for well, troubled in zip(counts[False], counts[True], strict=True)]
    bar = Bar(
        "B-9",
        "5 % 503s, 1 % resets, 30 s away, 200 ms latency",
        (
            Figure("tokens/s lost", statistics.median(lost), "%", 5, lost),
            Figure("requests", statistics.median(more), "x fault-free", 2, more),
            Figure("left over after success", len(left), "prefixes and uploads", 0),
        ),
    )
    record(bar)
    assert bar.met, left


# --- F24: slow -------------------------------------------------------------------------------------------------


def test_a_slow_store_makes_saves_rarer_and_the_log_says_so(
    run: TrainingRun, proxy: S3Proxy, prepared: tuple[TrainingRun, Ending, int]
) -> None:
    # So little that a save takes longer than the steps between two.
    proxy.limit(60_000)
    process = run.start(Stage.TRAIN)
    process.wait_for_log("SavesAreRarer: A checkpoint takes longer to upload than the 3 steps between two")
    proxy.limit()
    assert process.wait() == 0, process.log
    commits = proxy.count("PUT", "/checkpoints/.*/manifest.json")
    assert 1 <= commits < STEPS // INTERVAL
    assert ending_of(run) == prepared[1]


# --- F25: refused, gone ----------------------------------------------------------------------------------------


def test_a_store_that_begins_to_refuse_ends_the_attempt_and_is_named(
    endless: TrainingRun, proxy: S3Proxy
) -> None:
    process = endless.start(Stage.TRAIN)
    saved = process.wait_for_checkpoint()
    proxy.answer(403, code="AccessDenied", to=requests("PUT", "/checkpoints/"), times=math.inf)
    assert process.wait() == ExitCode.STORAGE_DENIED, process.log
    message = process.message
    assert message.message.startswith(f"Bucket 'gone-soon' at {proxy.url} refuses to write")
    assert message.trained is not None and message.trained.step >= saved


def test_a_bucket_that_is_removed_ends_the_attempt_and_is_named(
    endless: TrainingRun, server: S3Server, proxy: S3Proxy
) -> None:
    process = endless.start(Stage.TRAIN)
    process.wait_for_checkpoint()
    # At once, and with all that is in it.
    (server.data / "gone-soon").rename(server.data / "gone")
    assert process.wait() == ExitCode.USER_ERROR, process.log
    assert process.message.message.startswith(f"Bucket 'gone-soon' does not exist at {proxy.url}.")


# --- F26: full -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param(507, "XMinioStorageFull", id="a full disk, as MinIO says it"),
        pytest.param(403, "QuotaExceeded", id="a quota, as Ceph says it"),
    ],
)
def test_training_goes_on_while_the_store_is_full(
    run: TrainingRun,
    proxy: S3Proxy,
    prepared: tuple[TrainingRun, Ending, int],
    status: int,
    code: str,
) -> None:
    process = run.start(Stage.TRAIN)
    process.wait_for_checkpoint()
    full = proxy.answer(status, code=code, to=requests("PUT"), times=math.inf)
    wait_until(lambda: full.happened, "the store is full")
    waits_for_the_store(process, code)
    went_on_at = process.steps()
    process.wait_for_steps(min(went_on_at + 2, STEPS))
    proxy.heal()
    assert process.wait() == 0, process.log
    assert ending_of(run) == prepared[1]
    assert committed_steps(run.store, run.job(Stage.TRAIN).layout)[-1] == STEPS


def waits_for_the_store(process: StageProcess, code: str) -> None:
    """Wait until the uploader has said what it waits for."""
    process.wait_for_log(f"answers {code}, also after retries")
    assert "waits for the store: Could not write s3://" in process.log
