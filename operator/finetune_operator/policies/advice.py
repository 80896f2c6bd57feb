"""What a person can do about a failure, by class and stage: one or two sentences that stand in `attempts[].advice`."""

from __future__ import annotations

from finetune_api.names import Stage
from finetune_api.reasons import FailureClass

_SIZES = {
    Stage.PREPARE: "spec.resources.prepare.memory",
    Stage.TRAIN: "spec.resources.memory",
    Stage.EXPORT: "spec.resources.export.memory",
    Stage.CLEANUP: "spec.resources.prepare.memory",
}
_RETRY = "then raise spec.retry"
_BY_CLASS = {
    FailureClass.USER_ERROR: f"Correct what the message names, {_RETRY}; an immutable field needs a new FineTuneJob.",
    FailureClass.DATA_ERROR: f"Correct the data where they stand, {_RETRY}; another source needs a new FineTuneJob.",
    FailureClass.STORAGE_DENIED: "Correct the credentials in the Secret of spec.output.store or their rights on the "
    f"bucket, {_RETRY}.",
    FailureClass.NON_FINITE_LOSS: "Create a FineTuneJob with a lower training.learningRate, or with training.precision "
    "BF16 or FP32; spec.resumeFrom can start it from a checkpoint of this run.",
    FailureClass.STORAGE_UNAVAILABLE: "See whether the store at spec.output.store.endpoint answers from inside the "
    "cluster; the run goes on from its newest checkpoint.",
    FailureClass.STALLED: "The stacks of all processes stand in the pod's log. Look for a hung data source or "
    "network; a step that rightly takes longer needs a higher spec.failurePolicy.stallTimeoutSeconds.",
    FailureClass.NODE_LOST: "Nothing, if another node can take the pod. See the node with `kubectl describe node`.",
    FailureClass.EVICTED: "Nothing, if it was planned. A higher spec.resources.priorityClassName is evicted later; "
    "lower spec.checkpoints.everySteps to lose less.",
    FailureClass.PREEMPTED: "Nothing: it saved a checkpoint and goes on from there.",
    FailureClass.DELETED: "Nothing, if it was meant. To stop a job, set spec.suspend or delete the FineTuneJob.",
    FailureClass.DEADLINE_EXCEEDED: f"Raise spec.failurePolicy.activeDeadlineSeconds, {_RETRY}.",
}


def advise(failure_class: FailureClass, stage: Stage, *, pod: str | None, namespace: str) -> str:
    """Say what to do next."""
    if failure_class is FailureClass.OUT_OF_MEMORY:
        return _about_memory(stage)
    if failure_class is FailureClass.UNKNOWN:
        return _about_unknown(pod, namespace)
    return _BY_CLASS[failure_class]


def _about_memory(stage: Stage) -> str:
    raised = f"Raise {_SIZES[stage]}"
    if stage is not Stage.TRAIN:
        return f"{raised}, {_RETRY}."
    return (
        f"{raised} if the pod was OOMKilled; for a GPU's memory lower spec.training.microBatchTokens, or spread the "
        f"job over more GPUs with spec.parallelism, {_RETRY}."
    )


def _about_unknown(pod: str | None, namespace: str) -> str:
    if pod is None:
        return "See the events of the attempt's Job with `kubectl describe job`."
    return f"`kubectl -n {namespace} logs {pod}` shows its last words."
