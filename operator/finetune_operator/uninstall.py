"""`python -m finetune_operator.uninstall`: what Helm runs before it uninstalls the chart.

Takes our finalizer off every FineTuneJob, because without the operator nobody would. The operator still runs at that
moment and would put it back, so the Lease is taken from it first, and waited until it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from finetune_api import names
from finetune_operator.cluster import Cluster, ClusterError, Conflict, NotFound
from finetune_operator.job_resource import JobKey
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.lease import make_identity
from finetune_operator.logs import configure_logging
from finetune_operator.settings import Settings, SettingsError, load_settings

# Long enough for the rest of the uninstallation. If that fails half-way, the operator goes on after it.
HOLD_SECONDS = 600
REQUEST_TIMEOUT_SECONDS = 10.0
MAX_TRIES = 5
EXIT_FAILED = 1

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the hook. Returns the exit code."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"the finalizers cannot be removed: {error}\n")
        return EXIT_FAILED
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(uninstall(settings))
    except ClusterError as error:
        logger.error(
            "the finalizers were not removed: %s. Mend that and uninstall again, or use --no-hooks and remove the "
            "finalizer %s by hand.",
            error,
            names.FINALIZER,
        )
        return EXIT_FAILED
    return 0


async def uninstall(settings: Settings) -> None:
    """Stop the operator from writing, then remove its finalizers. Raises ClusterErrors."""
    async with contextlib.aclosing(await Cluster.connect()) as cluster:
        await asyncio.sleep(await take_lease(cluster, settings))
        async for body in list_finalized_jobs(cluster, settings.watch_namespaces):
            await remove_finalizer(cluster, body)


async def take_lease(cluster: Cluster, settings: Settings) -> float:
    """Take the Lease whoever holds it. Returns after how many seconds its holder has stopped to write."""
    identity = make_identity(settings.pod_name)
    for _ in range(MAX_TRIES):
        try:
            found = await cluster.read_lease(
                settings.operator_namespace, settings.lease_name, REQUEST_TIMEOUT_SECONDS
            )
            await cluster.update_lease(seize(found, identity, datetime.now(UTC)), REQUEST_TIMEOUT_SECONDS)
        except NotFound:
            logger.info("there is no Lease %s, so no operator writes", settings.lease_name)
            return 0.0
        except Conflict:
            continue  # Renewed between our two requests.
        pause_seconds = seconds_until_silent(found, settings.lease_duration)
        logger.info("Lease %s is taken; its holder stops in %.0f s", settings.lease_name, pause_seconds)
        return pause_seconds
    raise ClusterError(f"Lease '{settings.lease_name}' changed {MAX_TRIES} times while it was taken")


def seize(lease: JsonObject, identity: str, now: datetime) -> JsonObject:
    """The Lease with another holder, for long."""
    spec, time = lease.get("spec") or {}, now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    changed = {
        "holderIdentity": identity,
        "leaseDurationSeconds": HOLD_SECONDS,
        "acquireTime": time,
        "renewTime": time,
        "leaseTransitions": spec.get("leaseTransitions", 0) + 1,
    }
    return {**lease, "spec": {**spec, **changed}}


def seconds_until_silent(lease: JsonObject, usual: timedelta) -> float:
    """How long the holder of a Lease that it cannot renew any more may go on to write: none does without a holder."""
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity"):
        return 0.0
    # Ours already, from a try that did not come to its end: how long ago the operator lost it is not known.
    is_ours = spec.get("leaseDurationSeconds") == HOLD_SECONDS
    return usual.total_seconds() if is_ours else float(spec.get("leaseDurationSeconds") or 0)


async def list_finalized_jobs(cluster: Cluster, namespaces: tuple[str, ...]) -> AsyncIterator[JsonObject]:
    """List the FineTuneJobs with our finalizer. Without the CRD there are none."""
    for namespace in namespaces or (None,):
        try:
            async for body in cluster.list_jobs(namespace):
                if names.FINALIZER in body["metadata"].get("finalizers", ()):
                    yield body
        except NotFound:
            logger.info("this cluster has no FineTuneJobs")


async def remove_finalizer(cluster: Cluster, body: JsonObject) -> None:
    """Remove our finalizer from one FineTuneJob, however often it is written meanwhile."""
    metadata = body["metadata"]
    key = JobKey(metadata["namespace"], metadata["name"])
    for _ in range(MAX_TRIES):
        try:
            await cluster.remove_finalizer(body)
        except Conflict:
            continue
        logger.info("FineTuneJob %s can be deleted; what it wrote to the store stays", key)
        return
    raise ClusterError(f"FineTuneJob '{key}' changed {MAX_TRIES} times while its finalizer was removed")


if __name__ == "__main__":
    sys.exit(main())
