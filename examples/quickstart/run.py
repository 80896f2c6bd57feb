"""The FineTuneJob of the quickstart: its inputs into the store, `kubectl apply`, watching, `finetune pull`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import yaml

from examples.quickstart.environment import Environment, QuickstartError, S3Store
from examples.quickstart.installation import ensure_restricted_namespace

HERE = Path(__file__).parent
JOB_FILE = HERE / "job.yaml"
TIMEOUT = "20m"


def s3_client(store: S3Store) -> Any:  # noqa: ANN401 (boto3 makes its clients at run time)
    """A plain boto3 client, as any user of the store would make one."""
    return boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        region_name=store.region,
        aws_access_key_id=store.access_key_id,
        aws_secret_access_key=store.secret_access_key,
        config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def upload_inputs(store: S3Store, base: Path) -> None:
    """Put the base model and the training rows where a user's would be."""
    client = s3_client(store)
    ensure_bucket(client, store.bucket)
    for file in sorted(base.iterdir()):
        client.upload_file(str(file), store.bucket, f"base/{file.name}")
    client.upload_file(str(HERE / "data/train.jsonl"), store.bucket, "data/train.jsonl")
    print(f"  s3://{store.bucket}/base and s3://{store.bucket}/data/train.jsonl at {store.endpoint}")


def ensure_bucket(client: Any, bucket: str) -> None:  # noqa: ANN401
    """Create the bucket unless it is ours already."""
    try:
        client.head_bucket(Bucket=bucket)
    except botocore.exceptions.ClientError:
        client.create_bucket(Bucket=bucket)


def read_job(store: S3Store) -> dict[str, Any]:
    """`job.yaml` with this store's endpoint and bucket in place of the example's."""
    text = JOB_FILE.read_text(encoding="utf-8").replace("s3://quickstart/", f"s3://{store.bucket}/")
    job: dict[str, Any] = yaml.safe_load(text)
    job["spec"]["output"]["store"].update(endpoint=store.endpoint, region=store.region)
    return job


def credentials_secret(store: S3Store, job: dict[str, Any]) -> dict[str, Any]:
    """The Secret that the job names."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": job["spec"]["output"]["store"]["credentialsSecretRef"]["name"],
            "namespace": job["metadata"]["namespace"],
        },
        "stringData": {
            "AWS_ACCESS_KEY_ID": store.access_key_id,
            "AWS_SECRET_ACCESS_KEY": store.secret_access_key,
        },
    }


def submit(environment: Environment) -> None:
    """`kubectl apply` of the Secret and, after removing an earlier run's object, of the job."""
    job = read_job(environment.store)
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    ensure_restricted_namespace(environment, namespace)
    environment.run(
        "kubectl", "apply", "-f", "-", stdin=yaml.safe_dump(credentials_secret(environment.store, job))
    )
    environment.run(
        "kubectl", "-n", namespace, "delete", "ftj", name, "--ignore-not-found", "--wait", quiet=True
    )
    environment.run("kubectl", "apply", "-f", "-", stdin=yaml.safe_dump(job))


def follow(environment: Environment) -> None:
    """`kubectl get ftj -w` until the job has ended, either way.

    Raises QuickstartError with the job's own message when it failed.
    """
    metadata = read_job(environment.store)["metadata"]
    kubectl = ["kubectl", "-n", metadata["namespace"]]
    watch = subprocess.Popen([*kubectl, "get", "ftj", metadata["name"], "-w"], env=environment.variables)
    try:
        environment.run(
            *kubectl,
            "wait",
            f"--timeout={TIMEOUT}",
            "--for=condition=Finished",
            f"ftj/{metadata['name']}",
            quiet=True,
        )
    finally:
        watch.terminate()
        watch.wait()
    query = "{.status.phase}|{.status.reason}: {.status.message}"
    phase, _, why = environment.run(
        *kubectl, "get", "ftj", metadata["name"], "-o", f"jsonpath={query}", quiet=True
    ).partition("|")
    if phase != "Succeeded":
        raise QuickstartError(f"FineTuneJob {metadata['name']} ended as {phase}. {why}")


def pull(environment: Environment, target: Path) -> None:
    """`finetune pull`, as a user would call it."""
    metadata = read_job(environment.store)["metadata"]
    environment.run(
        *(
            str(Path(sys.executable).parent / "finetune"),
            "pull",
            metadata["name"],
            "--namespace",
            metadata["namespace"],
        ),
        *("--merged", "--output", str(target)),
    )
