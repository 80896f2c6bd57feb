"""Reads FineTuneJobs and Secrets from the cluster; the only user of the kubernetes client."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubernetes import config
from kubernetes.client import ApiClient, CoreV1Api, CustomObjectsApi
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from pydantic import JsonValue, ValidationError
from urllib3.exceptions import HTTPError

from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.spec import Output, Store
from finetune_api.status import FineTuneJobStatus
from finetune_cli.errors import CommandError

REQUEST_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """What of a FineTuneJob matters to somebody who wants its model."""

    name: str
    namespace: str
    store: Store
    status: FineTuneJobStatus


def parse_job(content: Mapping[str, JsonValue]) -> Job:
    """Parse a FineTuneJob; fields of a newer operator are passed over."""
    metadata, spec = content["metadata"], content["spec"]
    assert isinstance(metadata, dict)
    assert isinstance(spec, dict)
    status = FineTuneJobStatus.model_validate(content.get("status") or {}, extra="ignore")
    return Job(
        name=str(metadata["name"]),
        namespace=str(metadata["namespace"]),
        store=_store(spec, status),
        status=status,
    )


def _store(spec: Mapping[str, JsonValue], status: FineTuneJobStatus) -> Store:
    """The store of the job's results: its own, or the installation's default as the operator resolved it."""
    if "output" in spec:
        return Output.model_validate(spec["output"], extra="ignore").store
    return status.outputs.store or Store()


class Cluster:
    """One API server, asked with the user's own rights."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    def load_job(self, name: str, namespace: str) -> Job:
        """Load a FineTuneJob."""
        api = CustomObjectsApi(self._client)
        try:
            content = api.get_namespaced_custom_object(
                GROUP, VERSION, namespace, PLURAL, name, _request_timeout=REQUEST_TIMEOUT_SECONDS
            )
        except ApiException as error:
            raise CommandError(_refusal_sentence(error, name, namespace)) from error
        except HTTPError as error:
            server = self._client.configuration.host
            raise CommandError(
                f"The API server {server} does not answer ({error}). Check --context."
            ) from error
        assert isinstance(content, dict)
        try:
            return parse_job(content)
        except ValidationError as error:
            raise CommandError(
                f"FineTuneJob '{name}' in namespace '{namespace}' does not look as this version of finetune "
                f"expects ({error.errors()[0]['msg']}). Install the version that the operator has."
            ) from error

    def load_secret(self, name: str, namespace: str) -> Mapping[str, str] | None:
        """Load a Secret's keys; None where it is missing or the user may not read it."""
        try:
            secret = CoreV1Api(self._client).read_namespaced_secret(
                name, namespace, _request_timeout=REQUEST_TIMEOUT_SECONDS
            )
        except ApiException as error:
            if error.status in (403, 404):
                return None
            raise CommandError(
                f"Secret '{name}' in namespace '{namespace}': {_api_message(error)}"
            ) from error
        return {key: base64.b64decode(value).decode().strip() for key, value in (secret.data or {}).items()}


def open_cluster(kubeconfig: Path | None, context: str | None) -> Cluster:
    """Open the cluster that kubectl would use with the same two options."""
    file = str(kubeconfig) if kubeconfig else None
    try:
        contexts, current = config.list_kube_config_contexts(config_file=file)  # type: ignore[no-untyped-call]
        if context is not None:
            current = next((each for each in contexts if each["name"] == context), None)
        if current is None:
            known = ", ".join(each["name"] for each in contexts) or "none"
            raise CommandError(f"The kubeconfig has no context '{context}'. It has: {known}.")
        client = config.new_client_from_config(  # type: ignore[no-untyped-call]
            config_file=file, context=current["name"], persist_config=False
        )
    except ConfigException as error:
        raise CommandError(
            f"No cluster to ask: {error} Name a kubeconfig with --kubeconfig or KUBECONFIG."
        ) from error
    return Cluster(client, current["context"].get("namespace") or "default")


def _refusal_sentence(error: ApiException, name: str, namespace: str) -> str:
    if error.status == 404 and "page not found" in _api_message(error):
        return "The cluster has no FineTuneJobs: install the operator's chart, or choose another --context."
    if error.status == 404:
        return (
            f"FineTuneJob '{name}' not found in namespace '{namespace}'. "
            "`kubectl get finetunejobs --all-namespaces` lists them; choose the namespace with -n."
        )
    if error.status in (401, 403):
        return f"You may not read FineTuneJob '{name}' in namespace '{namespace}': {_api_message(error)}"
    return f"The API server refuses to show FineTuneJob '{name}': {_api_message(error)}"


def _api_message(error: ApiException) -> str:
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        content = json.loads(body)
    except json.JSONDecodeError:
        return body.strip() or str(error.reason)
    return str(content.get("message", body)) if isinstance(content, dict) else body
