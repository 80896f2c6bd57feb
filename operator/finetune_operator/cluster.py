"""The cluster as the operator uses it: read, create, apply, delete, and what the API server's errors mean.

The only user of the kubernetes client. Objects travel as plain dicts: the client's models would double the memory
and the time of every request, and nothing here needs them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from finetune_api import API_VERSION, KIND, PLURAL, names
from finetune_operator.job_resource import FineTuneJob, JobKey
from finetune_operator.kubernetes_objects import JsonObject

REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
LIST_CHUNK_SIZE = 500
# Every child carries it; the value tells which FineTuneJob, its presence tells that it is a child.
CHILD_SELECTOR = names.LABEL_JOB_UID
SERVICE_ACCOUNT_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105

logger = logging.getLogger(__name__)


class ClusterError(Exception):
    """The API server did not do what was asked."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason


class NotFound(ClusterError):
    """404: the object does not exist."""


class AlreadyExists(ClusterError):
    """409 on create: an object of this name exists."""


class Conflict(ClusterError):
    """409 on update: the object has changed since it was read."""


class Refused(ClusterError):
    """403 or 422: permissions, quota, admission or validation. Somebody has to act."""


class NamespaceTerminating(Refused):
    """403: nothing can be created in a namespace that is being deleted."""


class Unavailable(ClusterError):
    """The API server cannot be reached, is overloaded or failed: time heals."""

    def __init__(self, message: str, *, status: int = 0, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class Connection:
    """Where the API server is and how one logs in; kopf uses the very same."""

    server: str
    ca_path: str | None
    verify_tls: bool
    certificate_path: str | None
    private_key_path: str | None
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
        return cls(ApiClient(configuration), configuration)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def connection(self) -> Connection:
        """The connection's parameters, with a token that is valid now."""
        configuration = self._configuration
        return Connection(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            verify_tls=configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            authorization=await configuration.get_api_key_with_prefix("BearerToken"),
        )

    # --- FineTuneJobs ------------------------------------------------------------------------------------------

    async def read_job(self, key: JobKey) -> JsonObject:
        """Read a FineTuneJob. Raises NotFound."""
        return await self._request("GET", _jobs_path(key.namespace, key.name))

    def list_jobs(self, namespace: str | None) -> AsyncIterator[JsonObject]:
        """List FineTuneJobs of a namespace, or of all."""
        return self._list(_jobs_path(namespace))

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
        return await self._request("PUT", f"{_jobs_path(job.namespace, job.name)}/status", body)

    # --- children ----------------------------------------------------------------------------------------------

    async def read_child_job(self, namespace: str, name: str) -> JsonObject:
        """Read a Job. Raises NotFound."""
        return await self._request("GET", _path("apis/batch/v1", namespace, "jobs", name))

    def list_child_jobs(self, namespace: str | None) -> AsyncIterator[JsonObject]:
        """List the Jobs of all FineTuneJobs of a namespace, or of all."""
        return self._list(_path("apis/batch/v1", namespace, "jobs"), labelSelector=CHILD_SELECTOR)

    def list_pods(self, namespace: str | None, selector: str = CHILD_SELECTOR) -> AsyncIterator[JsonObject]:
        """List the pods of all FineTuneJobs of a namespace, or of all."""
        return self._list(_path("api/v1", namespace, "pods"), labelSelector=selector)

    def list_pods_of_job(self, namespace: str, job_name: str) -> AsyncIterator[JsonObject]:
        """List the pods of one Job."""
        return self.list_pods(namespace, f"batch.kubernetes.io/job-name={job_name}")

    def list_events_about(self, namespace: str, uid: str) -> AsyncIterator[JsonObject]:
        """List the events about one object."""
        return self._list(_path("api/v1", namespace, "events"), fieldSelector=f"involvedObject.uid={uid}")

    async def create_child_job(self, manifest: JsonObject) -> JsonObject:
        """Create a Job. Raises AlreadyExists, Refused."""
        return await self._request(
            "POST", _path("apis/batch/v1", manifest["metadata"]["namespace"], "jobs"), manifest
        )

    async def delete_child_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete a Job with its pods; one that is gone, or is another one by now, is left alone."""
        await self._delete(_path("apis/batch/v1", namespace, "jobs", name), uid)

    async def read_config_map(self, namespace: str, name: str) -> JsonObject:
        """Read a ConfigMap. Raises NotFound."""
        return await self._request("GET", _path("api/v1", namespace, "configmaps", name))

    async def create_config_map(self, manifest: JsonObject) -> JsonObject:
        """Create a ConfigMap. Raises AlreadyExists, Refused."""
        return await self._request(
            "POST", _path("api/v1", manifest["metadata"]["namespace"], "configmaps"), manifest
        )

    async def delete_config_map(self, namespace: str, name: str, uid: str) -> None:
        """Delete a ConfigMap; one that is gone, or is another one by now, is left alone."""
        await self._delete(_path("api/v1", namespace, "configmaps", name), uid)

    async def apply_config_map(self, manifest: JsonObject) -> None:
        """Create or update a ConfigMap by server-side apply."""
        metadata = manifest["metadata"]
        await self._request(
            "PATCH",
            _path("api/v1", metadata["namespace"], "configmaps", metadata["name"]),
            manifest,
            content_type="application/apply-patch+yaml",
            query={"fieldManager": names.FIELD_MANAGER, "force": "true"},
        )

    async def create_event(self, manifest: JsonObject) -> None:
        """Create an event. Raises AlreadyExists."""
        await self._request("POST", _path("api/v1", manifest["metadata"]["namespace"], "events"), manifest)

    # --- the progress server's needs ---------------------------------------------------------------------------

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        """Ask whether a token is valid for an audience, and whose it is."""
        review = await self._request(
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

    async def read_secret(self, namespace: str, name: str) -> JsonObject:
        """Read a Secret. Raises NotFound."""
        return await self._request("GET", _path("api/v1", namespace, "secrets", name))

    async def update_secret(self, secret: JsonObject) -> JsonObject:
        """Replace a Secret that has not changed since it was read. Raises Conflict."""
        metadata = secret["metadata"]
        return await self._request(
            "PUT", _path("api/v1", metadata["namespace"], "secrets", metadata["name"]), secret
        )

    # --- requests ----------------------------------------------------------------------------------------------

    async def _delete(self, path: str, uid: str) -> None:
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", path, options)
        except (NotFound, Conflict):
            logger.debug("not deleted, because it is gone or another one by now: %s", path)

    async def _list(self, path: str, **query: str) -> AsyncIterator[JsonObject]:
        token = ""
        while True:
            chunk = {**query, "limit": str(LIST_CHUNK_SIZE), **({"continue": token} if token else {})}
            page = await self._request("GET", path, query=chunk)
            for item in page["items"]:
                yield item
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def _request(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> JsonObject:
        url = f"{self._configuration.host}{path}{f'?{urlencode(query)}' if query else ''}"
        headers = {
            "Accept": "application/json",
            "Content-Type": content_type,
            "User-Agent": names.OPERATOR_NAME,
        }
        authorization = await self._configuration.get_api_key_with_prefix("BearerToken")
        if authorization:
            headers["Authorization"] = authorization
        try:
            response = await self._client.rest_client.request(  # type: ignore[no-untyped-call]
                method, url, headers=headers, body=body, _request_timeout=REQUEST_TIMEOUT
            )
            content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"{method} {path}: the API server cannot be reached: {error!r}") from error
        if response.status >= 300:
            raise error_of_response(method, path, response.status, content, response.headers)
        return cast(JsonObject, json.loads(content))


def _has_service_account() -> bool:
    return Path(SERVICE_ACCOUNT_TOKEN_PATH).exists()


def _path(api: str, namespace: str | None, plural: str, name: str | None = None) -> str:
    parts = [api, *(("namespaces", namespace) if namespace else ()), plural, *((name,) if name else ())]
    return "".join(f"/{quote(part)}" for part in parts)


def _jobs_path(namespace: str | None, name: str | None = None) -> str:
    return _path(f"apis/{API_VERSION}", namespace, PLURAL, name)


def error_of_response(
    method: str, path: str, status: int, content: bytes, headers: Mapping[str, str]
) -> ClusterError:
    """Map an answer of the API server to the exception that says what can be done about it."""
    told = _parse_status(content)
    message, reason = told.get("message") or f"{method} {path}: HTTP {status}", told.get("reason") or ""
    causes = {cause.get("reason") for cause in (told.get("details") or {}).get("causes") or ()}
    match status, reason:
        case 404, _:
            return NotFound(message, status=status, reason=reason)
        case 409, "AlreadyExists":
            return AlreadyExists(message, status=status, reason=reason)
        case 409, _:
            return Conflict(message, status=status, reason=reason)
        case 403, _ if "NamespaceTerminating" in causes:
            return NamespaceTerminating(message, status=status, reason=reason)
        case ((400 | 403 | 422), _):
            return Refused(message, status=status, reason=reason)
        case _:
            seconds = headers.get("Retry-After", "")
            pause = float(seconds) if seconds.isdecimal() else None
            return Unavailable(message, status=status, retry_after_seconds=pause)


def _parse_status(content: bytes) -> JsonObject:
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
