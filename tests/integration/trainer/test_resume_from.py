"""resumeFrom: which earlier run may be gone on from, and where an attempt starts. On a real S3 server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.layout import RunLayout
from finetune_trainer.claims import claim_incarnation, load_claims
from finetune_trainer.earlier_run import layout_of_run
from finetune_trainer.errors import UserError
from finetune_trainer.run_file import RunFile, config_digest_of, load_run_file
from finetune_trainer.starting_point import restore_starting_point
from finetune_trainer.storage import ObjectStore
from finetune_trainer.work_directory import StartingPoint, WorkDirectory
from tests.builders.checkpoints import make_facts, save_checkpoint
from tests.integration.trainer.workbench import ROWS, Workbench

EARLIER_UID = "eeeeeeee-0000"
EARLIER = "support-bot-eeeeeeee"
RESUME = {"resumeFrom": {"run": EARLIER}}


class Runs:
    """The bench's run and an earlier one, and checkpoints of both."""

    def __init__(self, bench: Workbench, store: ObjectStore, layout: RunLayout, folder: Path) -> None:
        self.bench = bench
        self.store = store
        self.own = layout
        self.earlier = layout_of_run(layout, EARLIER)
        self.work = WorkDirectory(folder / "train")
        self.work.root.mkdir()

    def prepare_earlier(self, **changes: Any) -> None:
        """Prepare the earlier run."""
        self.bench.run(uid=EARLIER_UID, **changes)

    def run_file(self) -> RunFile:
        """The own run's; it is prepared without regard to the earlier one."""
        if not self.store.exists(self.own.run_file_uri):
            self.bench.run()
        return load_run_file(self.store, self.own)

    def save(self, layout: RunLayout, *steps: int, incarnation: int = 1, **facts: Any) -> None:
        """Commit checkpoints whose metrics tell run and step."""
        digests = digests_of(self.run_file()) if layout == self.own else {}
        for step in steps:
            state = self.work.root / "state"
            state.mkdir(exist_ok=True)
            (state / "metrics.jsonl").write_text(f"{layout.run_id} {step}")
            changes = {**digests, **facts}
            save_checkpoint(self.store, layout, state, make_facts(step, incarnation, **changes))

    def start(self, **changes: Any) -> StartingPoint:
        """Where the next attempt starts."""
        job, run_file = self.bench.job(**{**RESUME, **changes}), self.run_file()
        incarnation = claim_incarnation(self.store, self.own)
        return restore_starting_point(
            job, self.work, self.store, run_file, incarnation, ranks=range(1), world_size=1
        )

    def started_at(self, **changes: Any) -> str:
        """Where the next attempt starts, as its metrics say."""
        self.start(**changes)
        return self.work.metrics.read_text()


def digests_of(run_file: RunFile) -> dict[str, str]:
    """What a checkpoint says of the training that it belongs to."""
    return {
        "model_digest": run_file.model.digest,
        "dataset_digest": run_file.dataset.digest,
        "config_digest": config_digest_of(run_file),
    }


@pytest.fixture
def runs(bench: Workbench, store: ObjectStore, layout: RunLayout, tmp_path: Path) -> Runs:
    return Runs(bench, store, layout, tmp_path)


# --- prepare -----------------------------------------------------------------------------------------------------


def test_the_same_training_may_go_on_also_for_longer_and_more_slowly(runs: Runs) -> None:
    runs.prepare_earlier(training__epochs=1)
    runs.save(runs.earlier, 1)
    runs.bench.run(**RESUME, training__epochs=3, training__learningRate=1e-5)
    assert load_run_file(runs.store, runs.own).total_steps == 6


def test_a_run_that_does_not_exist_is_named(runs: Runs) -> None:
    with pytest.raises(
        UserError, match=f"resumeFrom.run {EARLIER} does not exist: there is no s3://.*run.json"
    ):
        runs.bench.run(**RESUME)


def test_a_run_without_a_checkpoint_is_refused_before_the_data_are_read(runs: Runs) -> None:
    runs.prepare_earlier()
    runs.bench.write_rows([])
    with pytest.raises(UserError, match=f"resumeFrom.run {EARLIER} has no valid checkpoint at s3://"):
        runs.bench.run(**RESUME)


def test_a_run_whose_only_checkpoint_was_never_committed_says_so(runs: Runs) -> None:
    runs.prepare_earlier()
    runs.store.write_bytes(f"{runs.earlier.checkpoint_uri(4)}/00001/adapter.safetensors", b"half")
    with pytest.raises(UserError, match="step 4 has no manifest: it was never committed"):
        runs.bench.run(**RESUME)


DIFFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "another rank": (
        {"method__lora__rank": 8},
        "its method.lora.rank is 16, this one's 8. Set the same here, or remove resumeFrom",
    ),
    "other modules": ({"method__lora__targetModules": ["q_proj"]}, "this one's q_proj"),
    "another method": (
        {"method": {"type": "Full"}},
        "its method.type is LoRA, this one's Full. Set the same",
    ),
    "other modules of IA3": (
        {"method": {"type": "IA3", "ia3": {"targetModules": ["k_proj"], "feedforwardModules": ["k_proj"]}}},
        "its method.type is LoRA, this one's IA3. Set the same",
    ),
    "another optimizer": (
        {"training__optimizer": "AdamW8bit"},
        "its training.optimizer is AdamW, this one's AdamW8bit",
    ),
    "another batch": ({"training__globalBatchSize": 4}, "its training.globalBatchSize is 16, this one's 4"),
    "another seed": ({"training__seed": 1}, "its training.seed is 42, this one's 1"),
    "other data settings": (
        {"dataset__systemPrompt": "Be brief."},
        r"its data \(rows, tokenizer, dataset settings\) have digest \w{12}, this one's \w{12}",
    ),
    "two at once": (
        {"method__lora__alpha": 64, "training__seed": 7},
        "its training.seed is 42, this one's 7; its method.lora.alpha is 32.0, this one's 64.0",
    ),
    "a shorter run": (
        {"training__maxSteps": 3},
        "stands at step 4, but this job ends at step 3. Raise training.epochs or training.maxSteps",
    ),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_another_training_is_refused_with_every_difference(runs: Runs, case: str) -> None:
    changes, sentence = DIFFERENCES[case]
    runs.prepare_earlier()
    runs.save(runs.earlier, 4)
    with pytest.raises(UserError, match=sentence):
        runs.bench.run(**RESUME, **changes)
    assert not runs.store.exists(runs.own.run_file_uri)


def test_names_that_auto_stands_for_are_no_difference(runs: Runs) -> None:
    runs.prepare_earlier()
    runs.save(runs.earlier, 4)
    names = list(load_run_file(runs.store, runs.earlier).model.target_modules)
    assert runs.bench.run(**RESUME, method__lora__targetModules=names).reason == "Prepared"


def test_names_of_ia3_are_compared_as_they_were_resolved(runs: Runs) -> None:
    ia3 = {"type": "IA3", "ia3": {"targetModules": ["k_proj", "v_proj"], "feedforwardModules": ["v_proj"]}}
    runs.prepare_earlier(method={"type": "IA3"})
    runs.save(runs.earlier, 4)
    sentence = (
        "its method.ia3.targetModules are down_proj, k_proj, v_proj, this one's k_proj, v_proj; "
        "its method.ia3.feedforwardModules are down_proj, this one's v_proj"
    )
    with pytest.raises(UserError, match=sentence):
        runs.bench.run(**RESUME, method=ia3)


@pytest.mark.parametrize("what", ["model", "rows"])
def test_files_that_were_changed_since_are_a_difference(runs: Runs, what: str) -> None:
    runs.prepare_earlier()
    runs.save(runs.earlier, 4)
    if what == "rows":
        runs.bench.write_rows(ROWS[1:])
    else:
        path = runs.bench.model / "model.safetensors"
        content = path.read_bytes()
        runs.store.write_bytes(
            f"s3://{runs.bench.bucket}/models/base/model.safetensors", content[:-1] + b"\x01"
        )
    with pytest.raises(UserError, match="its base model is" if what == "model" else "its data"):
        runs.bench.run(**RESUME)


def test_a_run_of_a_release_that_recorded_less_is_refused(runs: Runs) -> None:
    runs.prepare_earlier()
    runs.save(runs.earlier, 4)
    old = load_run_file(runs.store, runs.earlier).model_copy(update={"settings": None})
    content = old.model_dump_json(exclude_none=True).encode()
    runs.store.write_bytes(runs.earlier.run_file_uri, content)
    with pytest.raises(UserError, match="prepared by an earlier release, which did not record its method"):
        runs.bench.run(**RESUME)


# --- train -------------------------------------------------------------------------------------------------------


def test_without_a_checkpoint_of_its_own_a_run_starts_from_the_earlier_ones_newest(runs: Runs) -> None:
    runs.save(runs.earlier, 4, 8)
    assert runs.started_at() == f"{EARLIER} 8"


def test_its_own_checkpoint_comes_first_however_old(runs: Runs) -> None:
    runs.save(runs.earlier, 4, 8)
    runs.save(runs.own, 6)
    assert runs.started_at() == f"{runs.own.run_id} 6"


def test_a_damaged_checkpoint_of_the_earlier_run_gives_way_to_the_one_before(runs: Runs) -> None:
    runs.save(runs.earlier, 4, 8)
    runs.store.write_bytes(f"{runs.earlier.checkpoint_uri(8)}/00001/metrics.jsonl", b"12345678901234567890 8")
    start = runs.start()
    assert runs.work.metrics.read_text() == f"{EARLIER} 4"
    assert start.passed_over == ("step 8: metrics.jsonl does not have the CRC64-NVME of its manifest",)


def test_a_checkpoint_that_is_gone_by_now_never_means_step_0(runs: Runs) -> None:
    with pytest.raises(UserError, match=f"resumeFrom.run {EARLIER} has no valid checkpoint"):
        runs.start()


def test_without_resume_from_an_empty_run_starts_at_step_0(runs: Runs) -> None:
    runs.save(runs.earlier, 4)
    assert runs.started_at(resumeFrom=...) == ""


def test_each_attempt_notes_the_step_of_the_runs_own_that_it_goes_on_from(runs: Runs) -> None:
    runs.save(runs.earlier, 8)
    assert runs.start().incarnation == 1
    runs.save(runs.own, 10)
    assert runs.start().incarnation == 2
    # What another run has saved is no step of this one.
    assert load_claims(runs.store, runs.own).starts == {1: 0, 2: 10}


def test_what_an_older_attempt_commits_after_its_successor_began_is_not_gone_on_from(runs: Runs) -> None:
    runs.save(runs.earlier, 4)
    runs.start()
    runs.save(runs.own, 10)
    runs.start()
    # The first attempt's commit was on its way when the second one claimed the run.
    late = f"{runs.own.checkpoint_uri(20)}/00001/manifest.json"
    manifest = runs.store.read_bytes(f"{runs.own.checkpoint_uri(10)}/00001/manifest.json")
    runs.store.write_bytes(late, manifest.replace(b'"step": 10', b'"step": 20'))
    start = runs.start()
    assert start.checkpoint is not None
    assert (start.incarnation, start.checkpoint.step) == (3, 10)
    assert start.passed_over == (
        "step 20 was committed by incarnation 1 after a newer one had gone on from step 10",
    )


@pytest.mark.parametrize(
    ("digest", "what"),
    [
        pytest.param("model_digest", "base model", id="another model"),
        pytest.param("dataset_digest", r"data \(rows, tokenizer, dataset settings\)", id="other rows"),
        pytest.param("config_digest", "method, optimizer, seed and batch size", id="other settings"),
    ],
)
def test_its_own_checkpoint_of_what_has_been_replaced_since_is_refused(
    runs: Runs, digest: str, what: str
) -> None:
    replaced: dict[str, Any] = {digest: "f" * 64}
    runs.save(runs.own, 6, **replaced)
    ours = digests_of(runs.run_file())[digest]
    with pytest.raises(
        UserError,
        match=f"checkpoint of step 6 belongs to another training: its {what} have digest ffffffffffff, "
        f"this run's {ours[:12]}. Put back what was replaced",
    ):
        runs.start(resumeFrom=...)
    assert load_claims(runs.store, runs.own).starts == {}
