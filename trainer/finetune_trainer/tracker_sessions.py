"""Opens trackers: their own libraries, fed by the callbacks that transformers has for them.

Nothing of a library is imported before its tracker is opened. The callbacks get the job's settings where Trainer would
give them its arguments, and no model: what a model's configuration says, its files say.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from transformers import TrainerControl, TrainerState
from transformers.integrations import integration_utils

from finetune_trainer.errors import UserError
from finetune_trainer.storage.locations import metadata_address_of
from finetune_trainer.tracked_settings import Setting
from finetune_trainer.tracker_secrets import read_secret, redacted
from finetune_trainer.trackers import RUN_TAG, TrackedRun, TrackerName, TrackerPlan

_Result = TypeVar("_Result")
_REASON_CHARACTERS = 400


class TrackerLost(Exception):
    """A tracker cannot be used; the text says why, without its secret."""


@dataclass(frozen=True)
class RunArguments:
    """What the callbacks ask TrainingArguments for."""

    run_name: str
    settings: Mapping[str, Setting]
    output_dir: str = ""
    resume_from_checkpoint: None = None

    def to_dict(self) -> dict[str, Setting]:
        """The hyper-parameters."""
        return dict(self.settings)

    def to_json_string(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class Opened:
    """A library that has its run: transformers' callback, what the callback shows, and how the run ends.

    Steps up to `recorded_step` stand in the tracker's run, from an earlier attempt.
    """

    callback: Any
    settings: Mapping[str, Setting]
    recorded_step: int
    end: Callable[[bool], None]


class TrackerSession:
    """A tracker's run while it is open. All calls come from one thread: MLflow's active run is the thread's own."""

    def __init__(self, opened: Opened, run: TrackedRun, secret: Mapping[str, str]) -> None:
        self._opened = opened
        self._secret = secret
        self._arguments = RunArguments(run.name, opened.settings)
        self._state = TrainerState(is_local_process_zero=True, is_world_process_zero=True)
        self._control = TrainerControl()

    def begin(self) -> None:
        """Show the settings. Raises TrackerLost."""
        self._guarded(lambda: self._opened.callback.on_train_begin(*self._given(), model=None))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Show figures of a step that the run does not have yet. Raises TrackerLost."""
        if step > self._opened.recorded_step:
            self._state.global_step = step
            self._guarded(lambda: self._opened.callback.on_log(*self._given(), logs=dict(figures)))

    def end(self, *, is_done: bool) -> None:
        """Wait until everything has arrived and end the tracker's run. Raises TrackerLost."""
        self._guarded(lambda: self._opened.end(is_done))

    def _given(self) -> tuple[RunArguments, TrainerState, TrainerControl]:
        return self._arguments, self._state, self._control

    def _guarded(self, action: Callable[[], None]) -> None:
        _without_secret(action, self._secret)


def open_tracker(plan: TrackerPlan, run: TrackedRun) -> TrackerSession:
    """Open the tracker's run, the one of earlier attempts if there is one. Raises TrackerLost."""
    secret: dict[str, str] = {}

    def open_run() -> TrackerSession:
        _refuse_metadata_address(plan)
        secret.update(read_secret(plan.secret))
        plan.folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(plan.environment)
        session = TrackerSession(_OPENERS[plan.name](plan, run, secret), run, secret)
        session.begin()
        return session

    return _without_secret(open_run, secret)


def _open_tensor_board(plan: TrackerPlan, run: TrackedRun, secret: Mapping[str, str]) -> Opened:
    from torch.utils.tensorboard import SummaryWriter

    # Readers drop what earlier files say of these steps: those attempts got further than their last checkpoint.
    writer = SummaryWriter(str(plan.folder), purge_step=run.first_step + 1 if run.first_step else None)
    callback = integration_utils.TensorBoardCallback(writer)
    return Opened(callback, run.settings, run.first_step, lambda _: writer.close())


def _open_swan_lab(plan: TrackerPlan, run: TrackedRun, secret: Mapping[str, str]) -> Opened:
    import swanlab

    if key := secret.get("SWANLAB_API_KEY"):
        swanlab.login(api_key=key, host=plan.uri, save=False)
    # A folder of this name is what a container that was restarted in this pod had begun; swanlab wants a new one.
    shutil.rmtree(plan.folder / plan.environment["SWANLAB_RUN_DIR"], ignore_errors=True)
    # transformers 5.23 opens a run if swanlab.get_run() is None, where swanlab 0.10 raises.
    swanlab.init()

    def end(is_done: bool) -> None:
        outcome = (
            {"state": "success"} if is_done else {"state": "crashed", "error": "The attempt did not finish."}
        )
        swanlab.finish(**outcome)

    # A server tells swanlab which steps it has, and swanlab leaves them out.
    recorded_step = run.first_step if plan.writes_files else 0
    return Opened(integration_utils.SwanLabCallback(), run.settings, recorded_step, end)


def _open_mlflow(plan: TrackerPlan, run: TrackedRun, secret: Mapping[str, str]) -> Opened:
    # MLflow reads its credentials from the environment with every request, and from nowhere else.
    os.environ.update(secret)
    import mlflow

    mlflow.set_tracking_uri(plan.environment["MLFLOW_TRACKING_URI"])
    earlier = _find_mlflow_run(mlflow, plan.environment["MLFLOW_EXPERIMENT_NAME"], run.run_id)
    os.environ.pop("MLFLOW_RUN_ID", None)
    if earlier is not None:
        os.environ["MLFLOW_RUN_ID"] = earlier

    def end(is_done: bool) -> None:
        mlflow.flush_async_logging()
        mlflow.end_run("FINISHED" if is_done else "FAILED")

    # A parameter of a run never changes, and an attempt may have other resources than the one before.
    settings = run.settings if earlier is None else {}
    recorded_step = _mlflow_step(mlflow, earlier) if earlier else 0
    return Opened(integration_utils.MLflowCallback(), settings, recorded_step, end)


def _find_mlflow_run(mlflow: Any, experiment_name: str, run_id: str) -> str | None:  # noqa: ANN401 (a module)
    experiment = mlflow.get_experiment_by_name(experiment_name)
    if experiment is None:
        return None
    found = mlflow.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`{RUN_TAG}` = '{run_id}'",
        max_results=1,
        output_format="list",
    )
    return str(found[0].info.run_id) if found else None


def _mlflow_step(mlflow: Any, run_id: str) -> int:  # noqa: ANN401 (a module)
    history = mlflow.MlflowClient().get_metric_history(run_id, "loss")
    return max((int(metric.step) for metric in history), default=0)


def _open_wandb(plan: TrackerPlan, run: TrackedRun, secret: Mapping[str, str]) -> Opened:
    import wandb

    # wandb.login() would write the key into ~/.netrc.
    wandb.setup(wandb.Settings(api_key=secret.get("WANDB_API_KEY")))
    wandb_run = wandb.init()
    step = wandb_run.summary.get("train/global_step", 0) if wandb_run.resumed else 0

    def end(is_done: bool) -> None:
        wandb.finish(exit_code=0 if is_done else 1)
        # finish() is back before the process that writes W&B's files is.
        wandb.teardown()

    return Opened(integration_utils.WandbCallback(), run.settings, int(step), end)


_OPENERS: dict[TrackerName, Callable[[TrackerPlan, TrackedRun, Mapping[str, str]], Opened]] = {
    TrackerName.TENSOR_BOARD: _open_tensor_board,
    TrackerName.SWAN_LAB: _open_swan_lab,
    TrackerName.MLFLOW: _open_mlflow,
    TrackerName.WANDB: _open_wandb,
}


def _refuse_metadata_address(plan: TrackerPlan) -> None:
    if plan.uri is not None and (address := metadata_address_of(plan.uri)) is not None:
        raise UserError(
            f"spec.tracking.{plan.name}.uri {plan.uri} points at {address}, a link-local or metadata address. Set "
            "it to the server's own URL."
        )


def _without_secret(action: Callable[[], _Result], secret: Mapping[str, str]) -> _Result:
    try:
        return action()
    # Whatever a library raises, and a library that thinks it is a program may also exit.
    except (Exception, SystemExit) as error:
        text = " ".join(redacted(str(error), secret).split()) or "no reason given"
        raise TrackerLost(f"{type(error).__name__}: {text[:_REASON_CHARACTERS]}") from None
