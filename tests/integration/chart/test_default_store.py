"""The administrator's default store: a job without output writes there, and stays there when the default changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from devcluster import ControlPlane
from tests.integration.operator.api_client import CORE, Api
from tests.integration.operator.chart import install_without_deployment
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.kubelet import PREPARED, Kubelet, job_is_there
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import apply_job

SECRET = "installation-keys"


def output_of(api: Api, attempt: str) -> dict[str, Any]:
    """The output that an attempt's job file names."""
    config_map = api.read(CORE, "configmaps", attempt)
    assert config_map is not None
    output: dict[str, Any] = json.loads(config_map["data"]["job.json"])["spec"]["output"]
    return output


def test_a_job_without_output_writes_to_the_default_store_and_stays_there(
    control_plane: ControlPlane, crd_kubeconfig: Path, tmp_path: Path
) -> None:
    home, api = make_namespace(control_plane, "home"), make_namespace(control_plane, "jobs")
    kubelet = Kubelet(api)
    values = {
        "watchNamespaces": f"{{{api.namespace}}}",
        "defaultStore.uri": "s3://models/tuned",
        "defaultStore.store.credentialsSecretRef.name": SECRET,
    }
    operator = OperatorProcess(
        install_without_deployment(control_plane, home, tmp_path, **values), tmp_path / "operator.log"
    )
    resolved = {
        "uri": f"s3://models/tuned/{api.namespace}/bot",
        "store": {"credentialsSecretRef": {"name": SECRET}},
    }
    operator.start()
    try:
        uid = apply_job(api, "bot", output=...)["metadata"]["uid"]
        job = job_is_there(api, "bot-prepare-1")
        with operator.restarted_with(FINETUNE_DEFAULT_STORE=json.dumps({"uri": "s3://elsewhere"})):
            kubelet.succeed("bot-prepare-1", PREPARED)
            job_is_there(api, "bot-train-1")
    finally:
        operator.stop()

    outputs = api.status("bot")["outputs"]
    assert output_of(api, "bot-prepare-1") == output_of(api, "bot-train-1") == resolved
    assert outputs["runURI"] == f"{resolved['uri']}/runs/bot-{uid[:8]}"
    mounted = [
        each["secret"]["secretName"]
        for each in job["spec"]["template"]["spec"]["volumes"]
        if "secret" in each
    ]
    assert mounted == [SECRET]
