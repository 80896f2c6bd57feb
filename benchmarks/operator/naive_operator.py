"""The rival: about as little as a kopf operator can be. One Job for each FineTuneJob, and no status."""

from typing import Any

import kopf
from kubernetes.aio import client, config

CONTAINER = {"name": "trainer", "image": "trainer", "args": ["train"]}


@kopf.on.startup()
async def on_startup(memo: Any, **_: object) -> None:  # noqa: ANN401
    await config.load_kube_config()  # type: ignore[no-untyped-call]
    memo.jobs = client.BatchV1Api()


@kopf.on.create("finetune.dev", "v1alpha1", "finetunejobs")
async def on_create(name: str, namespace: Any, body: kopf.Body, memo: Any, **_: object) -> None:  # noqa: ANN401
    pod = {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}
    job = {"metadata": {"name": name}, "spec": {"template": pod, "backoffLimit": 0}}
    kopf.adopt(job, owner=body)
    await memo.jobs.create_namespaced_job(namespace, job)
