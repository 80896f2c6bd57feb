"""An unmodified Hugging Face Trainer reports progress: nothing but the environment of its pod tells it where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from finetune_api.names import PROGRESS_CA_PATH, PROGRESS_TOKEN_PATH
from tests.integration.operator.api_client import Api, JsonObject, wait_until
from tests.integration.operator.kubelet import Kubelet
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.progress_steps import make_token, read_authorities
from tests.integration.operator.steps import apply_job, reach_training

# What a user's image would run. The callback's pause between two reports, 5 s, is all that is changed.
TRAINING = """
import logging, sys
import torch
from transformers import Trainer, TrainingArguments
from transformers.integrations.integration_utils import KubeflowCallback

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x, labels):
        return {"loss": torch.nn.functional.mse_loss(self.layer(x), labels)}

logging.getLogger("transformers.integrations.integration_utils").setLevel(logging.DEBUG)
KubeflowCallback._MIN_UPDATE_INTERVAL = 0.0
rows = [{"x": torch.ones(4), "labels": torch.zeros(1)} for _ in range(8)]
arguments = TrainingArguments(
    sys.argv[1], max_steps=3, per_device_train_batch_size=1, learning_rate=1e-3, logging_steps=1,
    report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True,
)
trainer = Trainer(Model(), arguments, train_dataset=rows)
(callback,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, KubeflowCallback)]
answers, update = [], callback._update_status
callback._update_status = lambda *args, **options: answers.append(update(*args, **options))
trainer.train()
print("answers:", answers)
"""


def environment_of(pod: JsonObject, files: dict[str, Path]) -> dict[str, str]:
    """The variables that the operator gave the container, with the mounted files where this test has put them."""
    variables = {each["name"]: each.get("value", "") for each in pod["spec"]["containers"][0]["env"]}
    kubeflow = {name: value for name, value in variables.items() if name.startswith("KUBEFLOW_")}
    return {name: str(files.get(value, value)) for name, value in kubeflow.items()}


def test_the_real_kubeflow_callback_reports_to_us(
    api: Api, operator: OperatorProcess, kubelet: Kubelet, tmp_path: Path
) -> None:
    apply_job(api)
    reach_training(api, kubelet)
    pod = kubelet.pod_of("bot-train-1")
    token, authorities = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(make_token(api, pod))
    authorities.write_text(read_authorities(api))
    told = environment_of(pod, {PROGRESS_TOKEN_PATH: token, PROGRESS_CA_PATH: authorities})
    assert told == {
        "KUBEFLOW_TRAINER_SERVER_URL": f"{operator.progress_url}/v1alpha1/progress",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": str(token),
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(authorities),
    }

    trained = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path / "out")],
        env={**os.environ, **told, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert trained.returncode == 0, trained.stderr[-4000:]
    # Begin, three steps, end: the callback took every answer for success.
    assert "answers: [True, True, True, True, True]" in trained.stdout, trained.stderr[-4000:]
    progress = wait_until(
        lambda: p if (p := api.status("bot").get("progress", {})).get("percent") == 100 else None,
        what=lambda: f"100 percent; progress is {api.status('bot').get('progress')}",
    )
    assert (progress["step"], progress["totalSteps"], progress["etaSeconds"]) == (3, 3, 0)
    assert progress["loss"] > 0
    assert 0 <= progress["learningRate"] <= 1e-3
    assert api.status("bot")["display"]["step"] == "3/3"
