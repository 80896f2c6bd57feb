"""What a plain Hugging Face Trainer has told so far.

Its KubeflowCallback sends the step with some reports and the loss with others, the last one without either; and of
reports that come quickly one after the other only the newest is ever written. So what a report leaves out is taken
from the ones before.
"""

from __future__ import annotations

from collections import OrderedDict

from finetune_api.progress import Metric, ProgressReport

MAX_PODS_REMEMBERED = 20_000
# What status shows of them; the rest is dropped, because a report is kept until the next one comes.
SHOWN_METRICS = frozenset(
    {"current_step", "step", "total_steps", "current_epoch", "epoch", "loss", "eval_loss", "learning_rate"}
)


class PlainMetrics:
    """The newest metrics of each pod, of those pods that reported last."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, dict[str, str]] = OrderedDict()

    def complete(self, pod_uid: str, report: ProgressReport) -> ProgressReport:
        """The report with every metric that status shows, as it was last told; without all others."""
        status = report.trainer_status
        shown = {metric.name: metric.value for metric in status.metrics if metric.name in SHOWN_METRICS}
        if report.finetune is None:
            shown = {**self._told.pop(pod_uid, {}), **shown}
            self._told[pod_uid] = shown
            if len(self._told) > MAX_PODS_REMEMBERED:
                self._told.popitem(last=False)
        metrics = tuple(Metric(name=name, value=value) for name, value in shown.items())
        return report.model_copy(update={"trainer_status": status.model_copy(update={"metrics": metrics})})
