"""A bucket with models of finished jobs, the jobs themselves, and the command as users run it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from devcluster import ControlPlane, S3Server
from finetune_api.layout import ARTIFACT_MANIFEST_NAME
from finetune_api.status import FineTuneJobStatus, Outputs
from tests.builders.finished_jobs import make_artifact, make_status
from tests.builders.jobs import make_manifest

FINETUNE = str(Path(sys.executable).with_name("finetune"))
SECRET = "s3-credentials"


@dataclass
class World:
    """A namespace, a bucket, and what a test does with them."""

    control_plane: ControlPlane
    server: S3Server
    folder: Path
    namespace: str
    s3: Any
    variables: dict[str, str] = field(default_factory=dict)

    def kubectl(self, *arguments: str, stdin: object = None) -> str:
        """Act as the cluster's administrator."""
        command = [
            str(self.control_plane.kubectl),
            "--kubeconfig",
            str(self.control_plane.kubeconfig),
            *arguments,
        ]
        text = None if stdin is None else json.dumps(stdin)
        result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def upload(self, prefix: str, files: Mapping[str, bytes], kind: str = "merged") -> tuple[str, str]:
        """Put a finished folder into the store; return its URI and its manifest's digest."""
        artifact = make_artifact(files, kind)
        for name, content in artifact.items():
            self.s3.put_object(Bucket=self.namespace, Key=f"{prefix}/{name}", Body=content)
        return f"s3://{self.namespace}/{prefix}", hashlib.sha256(artifact[ARTIFACT_MANIFEST_NAME]).hexdigest()

    def create_job(
        self, name: str, status: FineTuneJobStatus | None = None, endpoint: str | None = None
    ) -> None:
        """Create a FineTuneJob and write its status as the operator does."""
        job = make_manifest(
            name,
            self.namespace,
            output__uri=f"s3://{self.namespace}/{name}",
            output__store={**self.store, **({"endpoint": endpoint} if endpoint else {})},
        )
        self.kubectl("apply", "-f", "-", stdin=job)
        if status is not None:
            self._write_status(name, status)

    def _write_status(self, name: str, status: FineTuneJobStatus) -> None:
        patch = json.dumps({"status": status.model_dump(mode="json", exclude_none=True)})
        place = ("-n", self.namespace, "patch", f"ftj/{name}", "--subresource=status")
        self.kubectl(*place, "--type=merge", "-p", patch)

    @property
    def store(self) -> dict[str, object]:
        """The store as a job names it."""
        return {
            "endpoint": self.server.endpoint,
            "region": self.server.region,
            "credentialsSecretRef": {"name": SECRET},
        }

    def create_job_without_output(self, name: str, status: FineTuneJobStatus) -> None:
        """Create a FineTuneJob that leaves spec.output to the installation, and its status."""
        self.kubectl("apply", "-f", "-", stdin=make_manifest(name, self.namespace, output=...))
        self._write_status(name, status)

    def create_finished_job(self, name: str, files: Mapping[str, bytes]) -> None:
        """Create a job that has succeeded with a merged model of these files."""
        uri, digest = self.upload(f"{name}/merged", files)
        adapter, _ = self.upload(f"{name}/adapter", {"adapter_config.json": b"{}"}, "adapter")
        outputs = Outputs(merged_uri=uri, adapter_uri=adapter, manifest_digest=digest)
        self.create_job(name, make_status(outputs=outputs))

    def create_secret(self, access_key: str, secret_key: str) -> None:
        """Create the Secret that the jobs name."""
        self.kubectl(
            *("apply", "-f", "-"),
            stdin={
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": SECRET, "namespace": self.namespace},
                "stringData": {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key},
            },
        )

    def finetune(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command in the test's folder, with an environment of its own."""
        return subprocess.run(
            [FINETUNE, *arguments],
            cwd=self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def world(
    control_plane: ControlPlane, crd_kubeconfig: Path, s3_server: S3Server, tmp_path: Path
) -> Iterator[World]:
    """A namespace and a bucket of the test's own; the job's Secret holds the store's right keys."""
    key = s3_server.access_key
    s3 = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=key.identifier,
        aws_secret_access_key=key.secret,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    namespace = f"pull-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=namespace)
    home = tmp_path / "home"
    home.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    world = World(control_plane, s3_server, work, namespace, s3)
    world.variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "KUBECONFIG": str(crd_kubeconfig),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    world.kubectl("create", "namespace", namespace)
    world.create_secret(key.identifier, key.secret)
    yield world
    world.kubectl("delete", "namespace", namespace, "--wait=false")
