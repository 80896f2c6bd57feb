"""The cluster as the operator uses it: read, create, apply, delete; how that is asked stands in api_requests.py.

The only user of the kubernetes client. Objects travel as plain dicts: the client's models would double the memory
and the time of every request, and nothing here needs them.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from finetune_api import API_VERSION, KIND, PLURAL, names
from finetune_operator.api_errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    NamespaceTerminating,
    NotFound,
    Refused,
    Unavailable,
)
from finetune_operator.api_requests import ApiRequests, WriteGate, api_path
from finetune_operator.job_resource import FineTuneJob, JobKey
from finetune_operator.kubernetes_objects import JsonObject

__all__ = [
    "AlreadyExists",
    "Cluster",
    "ClusterError",
    "Conflict",
    "Connection",
    "NamespaceTerminating",
    "NotFound",
    "Refused",
    "TokenVerdict",
    "Unavailable",
    "WriteGate",
]

LEASES = "apis/coordination.k8s.io/v1"
KUEUE_GROUP = "kueue.x-k8s.io"
KUEUE_LABEL_JOB_UID = f"{KUEUE_GROUP}/job-uid"
# An upgrade of Kueue may serve another version from one minute to the next.
KUEUE_VERSION_TRUSTED_SECONDS = 600.0
# Every child carries it; the value tells which FineTuneJob, its presence tells that it is a child.
CHILD_SELECTOR = names.LABEL_JOB_UID
SERVICE_ACCOUNT_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """Where the API server is and how one logs in; kopf uses the very same."""

    server: str
    tls: ssl.SSLContext
    authorization: str | None


@dataclass(frozen=True)
class TokenVerdict:
    """What the API server says about a token."""

    authenticated: bool
    username: str = ""
    pod_name: str = ""
    pod_uid: str = ""


class Cluster:
    """A connection to one API server."""

    def __init__(self, client: ApiClient, configuration: Configuration) -> None:
        self._client = client
        self._configuration = configuration
        self._api = ApiRequests(client.rest_client, configuration.host, self._authorization)
        self._kueue_version = ""
        self._kueue_version_read_at = 0.0

    def guard_writes(self, gate: WriteGate) -> None:
        """Let every write pass this gate from now on."""
        self._api.guard_writes(gate)

    @classmethod
    async def connect(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Log in with the pod's service account, or outside a cluster with KUBECONFIG."""
        configuration = Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in environment and _has_service_account():
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                config_file = environment.get("KUBECONFIG")
                await load_kube_config(config_file, client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            raise ClusterError(
                f"cannot log in to a cluster: {error}. Run in a pod with a service account, or set KUBECONFIG."
            ) from error
        # Otherwise aiohttp reads ~/.netrc in a thread for every request; nothing there may redirect our token either.
        configuration.client_session_kwargs = {"trust_env": False}
        return cls(ApiClient(configuration), configuration)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def connection(self) -> Connection:
        """The connection's parameters, with a token that is valid now."""
        return Connection(
            server=self._configuration.host,
            tls=self._client.rest_client.ssl_context,
            authorization=await self._authorization(),
        )

    async def _authorization(self) -> str | None:
        """The header's value; a token that is kept in a file is read anew every minute."""
        authorization: str | None = await self._configuration.get_api_key_with_prefix("BearerToken")
        return authorization

    # --- FineTuneJobs ------------------------------------------------------------------------------------------

    async def read_job(self, key: JobKey) -> JsonObject:
        """Read a FineTuneJob. Raises NotFound."""
        return await self._api.request("GET", _jobs_path(key.namespace, key.name))

    def list_jobs(self, namespace: str | None) -> AsyncIterator[JsonObject]:
        """List FineTuneJobs of a namespace, or of all."""
        return self._api.list_objects(_jobs_path(namespace))

    async def write_status(self, job: FineTuneJob, status: JsonObject) -> JsonObject:
        """Replace the status of a FineTuneJob that has not changed since it was read. Raises Conflict, NotFound."""
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": job.name,
                "namespace": job.namespace,
                "uid": job.uid,
                "resourceVersion": job.resource_version,
            },
            "status": status,
        }
        return await self._api.request("PUT", f"{_jobs_path(job.namespace, job.name)}/status", body)

    async def add_finalizer(self, job: FineTuneJob) -> JsonObject:
        """Add our finalizer to a FineTuneJob; others' stay. Raises Conflict, NotFound."""
        body = await self.read_job(job.key)
        if body["metadata"]["uid"] != job.uid:
            raise NotFound(f"FineTuneJob '{job.key}' has been replaced by another one", status=404)
        finalizers = _finalizers(body)
        if names.FINALIZER in finalizers:
            return body
        return await self._write_finalizers(body, [*finalizers, names.FINALIZER])

    async def remove_finalizer(self, job: FineTuneJob | JsonObject) -> None:
        """Remove our finalizer from a FineTuneJob; others' stay. One that is gone is left alone. Raises Conflict."""
        uid, key = (job.uid, job.key) if isinstance(job, FineTuneJob) else _identity(job)
        try:
            body = await self.read_job(key)
            if body["metadata"]["uid"] == uid and names.FINALIZER in _finalizers(body):
                await self._write_finalizers(body, [f for f in _finalizers(body) if f != names.FINALIZER])
        except NotFound:
            logger.debug("no finalizer to remove: FineTuneJob %s is gone", key)

    async def delete_finetune_job(self, key: JobKey, uid: str, resource_version: str) -> None:
        """Delete a FineTuneJob unless it has changed; one that is gone is left alone. Raises Conflict."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options = {"propagationPolicy": "Background", "preconditions": preconditions}
        try:
            await self._api.request("DELETE", _jobs_path(key.namespace, key.name), options)
        except NotFound:
            logger.debug("not deleted, because it is gone: FineTuneJob %s", key)

    async def _write_finalizers(self, body: JsonObject, finalizers: list[str]) -> JsonObject:
        """Write the whole list; the resource version sees to it that nobody else's entry gets lost."""
        metadata = body["metadata"]
        return await self._api.request(
            "PATCH",
            _jobs_path(metadata["namespace"], metadata["name"]),
            {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": finalizers}},
            content_type="application/merge-patch+json",
        )

    # --- children ----------------------------------------------------------------------------------------------

    async def read_child_job(self, namespace: str, name: str) -> JsonObject:
        """Read a Job. Raises NotFound."""
        return await self._api.request("GET", api_path("apis/batch/v1", namespace, "jobs", name))

    def list_child_jobs(self, namespace: str | None) -> AsyncIterator[JsonObject]:
        """List the Jobs of all FineTuneJobs of a namespace, or of all."""
        return self._api.list_objects(
            api_path("apis/batch/v1", namespace, "jobs"), labelSelector=CHILD_SELECTOR
        )

    def list_pods(self, namespace: str | None, selector: str = CHILD_SELECTOR) -> AsyncIterator[JsonObject]:
        """List the pods of all FineTuneJobs of a namespace, or of all."""
        return self._api.list_objects(api_path("api/v1", namespace, "pods"), labelSelector=selector)

    def list_pods_of_job(self, namespace: str, job_name: str) -> AsyncIterator[JsonObject]:
        """List the pods of one Job."""
        return self.list_pods(namespace, f"batch.kubernetes.io/job-name={job_name}")

    def list_events_about(self, namespace: str, uid: str) -> AsyncIterator[JsonObject]:
        """List the events about one object."""
        return self._api.list_objects(
            api_path("api/v1", namespace, "events"), fieldSelector=f"involvedObject.uid={uid}"
        )

    async def create_child_job(self, manifest: JsonObject) -> JsonObject:
        """Create a Job. Raises AlreadyExists, Refused."""
        return await self._api.request(
            "POST", api_path("apis/batch/v1", manifest["metadata"]["namespace"], "jobs"), manifest
        )

    async def delete_child_job(
        self, namespace: str, name: str, uid: str, *, foreground: bool = False
    ) -> None:
        """Delete a Job with its pods; one that is gone, or is another one by now, is left alone.

        In the foreground the Job stays until its last pod is gone.
        """
        policy = "Foreground" if foreground else "Background"
        await self._api.delete(api_path("apis/batch/v1", namespace, "jobs", name), uid, policy)

    async def read_service(self, namespace: str, name: str) -> JsonObject:
        """Read a Service. Raises NotFound."""
        return await self._api.request("GET", api_path("api/v1", namespace, "services", name))

    async def apply_service(self, manifest: JsonObject) -> None:
        """Create or update a Service by server-side apply. Raises Refused."""
        await self._api.apply("services", manifest)

    async def delete_service(self, namespace: str, name: str, uid: str) -> None:
        """Delete a Service; one that is gone, or is another one by now, is left alone."""
        await self._api.delete(api_path("api/v1", namespace, "services", name), uid)

    async def read_config_map(self, namespace: str, name: str) -> JsonObject:
        """Read a ConfigMap. Raises NotFound."""
        return await self._api.request("GET", api_path("api/v1", namespace, "configmaps", name))

    async def create_config_map(self, manifest: JsonObject) -> JsonObject:
        """Create a ConfigMap. Raises AlreadyExists, Refused."""
        return await self._api.request(
            "POST", api_path("api/v1", manifest["metadata"]["namespace"], "configmaps"), manifest
        )

    async def delete_config_map(self, namespace: str, name: str, uid: str) -> None:
        """Delete a ConfigMap; one that is gone, or is another one by now, is left alone."""
        await self._api.delete(api_path("api/v1", namespace, "configmaps", name), uid)

    async def apply_config_map(self, manifest: JsonObject) -> None:
        """Create or update a ConfigMap by server-side apply."""
        await self._api.apply("configmaps", manifest)

    async def create_event(self, manifest: JsonObject) -> None:
        """Create an event. Raises AlreadyExists."""
        await self._api.request(
            "POST", api_path("api/v1", manifest["metadata"]["namespace"], "events"), manifest
        )

    # --- Kueue -------------------------------------------------------------------------------------------------

    async def list_workloads_of(self, namespace: str, job_uid: str) -> AsyncIterator[JsonObject]:
        """List Kueue's Workloads of one Job. Raises NotFound where there is no Kueue."""
        path = api_path(f"apis/{KUEUE_GROUP}/{await self._served_kueue_version()}", namespace, "workloads")
        try:
            async for workload in self._api.list_objects(
                path, labelSelector=f"{KUEUE_LABEL_JOB_UID}={job_uid}"
            ):
                yield workload
        except NotFound:
            self._kueue_version = ""
            raise

    async def _served_kueue_version(self) -> str:
        """Ask which version of its API this cluster's Kueue prefers; v1beta1 goes away where v1beta2 is served."""
        now = time.monotonic()
        if not self._kueue_version or now - self._kueue_version_read_at > KUEUE_VERSION_TRUSTED_SECONDS:
            group = await self._api.request("GET", f"/apis/{KUEUE_GROUP}")
            self._kueue_version = group["preferredVersion"]["version"]
            self._kueue_version_read_at = now
        return self._kueue_version

    # --- the Lease: taken and renewed by lease.py, which is the gate and so does not pass it ---------------------

    async def read_lease(self, namespace: str, name: str, timeout_seconds: float = 10.0) -> JsonObject:
        """Read a Lease. Raises NotFound."""
        return await self._api.send(
            "GET", api_path(LEASES, namespace, "leases", name), timeout_seconds=timeout_seconds
        )

    async def update_lease(self, manifest: JsonObject, timeout_seconds: float = 10.0) -> JsonObject:
        """Replace a Lease that has not changed since it was read. Raises Conflict, NotFound."""
        metadata = manifest["metadata"]
        path = api_path(LEASES, metadata["namespace"], "leases", metadata["name"])
        return await self._api.send("PUT", path, manifest, timeout_seconds=timeout_seconds)

    # --- the progress server's needs ---------------------------------------------------------------------------

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        """Ask whether a token is valid for an audience, and whose it is."""
        review = await self._api.send(
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": [audience]},
            },
        )
        status = review["status"]
        if not status.get("authenticated") or audience not in status.get("audiences", ()):
            return TokenVerdict(authenticated=False)
        extra = status["user"].get("extra", {})
        return TokenVerdict(
            authenticated=True,
            username=status["user"].get("username", ""),
            pod_name=next(iter(extra.get("authentication.kubernetes.io/pod-name", ())), ""),
            pod_uid=next(iter(extra.get("authentication.kubernetes.io/pod-uid", ())), ""),
        )

    async def read_issuer(self) -> JsonObject:
        """Read who issues the cluster's tokens: the OpenID discovery document."""
        return await self._api.request("GET", "/.well-known/openid-configuration")

    async def read_signing_keys(self) -> JsonObject:
        """Read the keys with which the cluster signs its tokens: a JSON Web Key Set."""
        return await self._api.request("GET", "/openid/v1/jwks")

    async def read_secret(self, namespace: str, name: str) -> JsonObject:
        """Read a Secret. Raises NotFound."""
        return await self._api.request("GET", api_path("api/v1", namespace, "secrets", name))

    async def update_secret(self, secret: JsonObject) -> JsonObject:
        """Replace a Secret that has not changed since it was read. Raises Conflict."""
        metadata = secret["metadata"]
        return await self._api.request(
            "PUT", api_path("api/v1", metadata["namespace"], "secrets", metadata["name"]), secret
        )


def _has_service_account() -> bool:
    return Path(SERVICE_ACCOUNT_TOKEN_PATH).exists()


def _jobs_path(namespace: str | None, name: str | None = None) -> str:
    return api_path(f"apis/{API_VERSION}", namespace, PLURAL, name)


def _finalizers(body: JsonObject) -> list[str]:
    return list(body["metadata"].get("finalizers") or ())


def _identity(body: JsonObject) -> tuple[str, JobKey]:
    metadata = body["metadata"]
    return metadata["uid"], JobKey(metadata["namespace"], metadata["name"])
