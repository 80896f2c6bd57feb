"""The certificate in its Secret and its authority in the jobs' namespaces, against a real API server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from devcluster import ControlPlane
from finetune_operator.certificate_store import CertificateStore
from finetune_operator.cluster import Cluster, NotFound
from finetune_operator.settings import Settings, load_settings
from tests.integration.operator.api_client import CORE, Api, JsonObject, wait_until
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.kubelet import Kubelet
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.progress_steps import (
    CA_CONFIG_MAP,
    make_report,
    make_token,
    post,
    read_authorities,
)
from tests.integration.operator.steps import apply_job, reach_training

SECRET = "finetune-operator-certificate"
KEYS = {"ca.crt", "ca.key", "tls.crt", "tls.key"}


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def home(control_plane: ControlPlane) -> Api:
    """A namespace with the empty Secret that the chart creates."""
    api = make_namespace(control_plane, "certificate")
    api.create(CORE, "secrets", {"metadata": {"name": SECRET}, "type": "Opaque"})
    return api


@pytest.fixture
def settings(home: Api) -> Settings:
    return load_settings(
        {
            "FINETUNE_OPERATOR_NAMESPACE": home.namespace,
            "FINETUNE_TRAINER_IMAGE": "trainer",
            "FINETUNE_PREPARE_IMAGE": "prepare",
            "FINETUNE_PROGRESS_SERVICE_URL": "https://127.0.0.1:8443",
        }
    )


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    cluster = await Cluster.connect({"KUBECONFIG": str(control_plane.kubeconfig)})
    yield cluster
    await cluster.aclose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(cluster: Cluster, settings: Settings, clock: Clock) -> CertificateStore:
    return CertificateStore(cluster, settings, clock)


def read_secret(home: Api) -> dict[str, bytes]:
    secret = home.read(CORE, "secrets", SECRET)
    assert secret is not None
    return {name: base64.b64decode(value) for name, value in (secret.get("data") or {}).items()}


async def read_served(store: CertificateStore) -> bytes:
    """The certificate that a client is shown."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=store.tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return (await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))).encode()


async def test_an_empty_secret_is_filled_and_served(store: CertificateStore, home: Api) -> None:
    await store.load()

    assert set(read_secret(home)) == KEYS
    assert await read_served(store) == read_secret(home)["tls.crt"]


async def test_without_the_secret_it_says_which_one_is_missing(store: CertificateStore, home: Api) -> None:
    home.delete(CORE, "secrets", SECRET)

    with pytest.raises(NotFound, match=SECRET):
        await store.load()


async def test_operators_that_start_at_once_agree(cluster: Cluster, settings: Settings, home: Api) -> None:
    stores = [CertificateStore(cluster, settings, lambda: datetime.now(UTC)) for _ in range(4)]

    await asyncio.gather(*(store.load() for store in stores))

    kept = read_secret(home)["tls.crt"]
    assert [await read_served(store) for store in stores] == [kept] * 4


async def test_a_good_certificate_is_never_written_again(
    cluster: Cluster, settings: Settings, home: Api, store: CertificateStore
) -> None:
    await store.load()
    before = home.read(CORE, "secrets", SECRET)

    await CertificateStore(cluster, settings, lambda: datetime.now(UTC) + timedelta(days=59)).load()

    assert home.read(CORE, "secrets", SECRET) == before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"tls.key": "Z2FyYmFnZQ=="}, id="garbage"),
        pytest.param({"ca.key": None}, id="a key removed"),
        pytest.param({"tls.crt": ""}, id="emptied"),
    ],
)
async def test_a_damaged_secret_is_replaced_while_the_server_goes_on(
    store: CertificateStore, home: Api, damage: JsonObject
) -> None:
    await store.load()
    before = await read_served(store)
    home.send(
        "PATCH",
        home.path(CORE, "secrets", SECRET),
        {"data": damage},
        "application/merge-patch+json",
    )

    await store.load()

    assert set(read_secret(home)) == KEYS
    assert await read_served(store) == read_secret(home)["tls.crt"] != before


async def test_what_one_operator_renews_the_other_serves(
    cluster: Cluster, settings: Settings, home: Api, store: CertificateStore
) -> None:
    await store.load()
    await CertificateStore(cluster, settings, lambda: datetime.now(UTC) + timedelta(days=61)).load()
    assert await read_served(store) != read_secret(home)["tls.crt"]

    await store.load()

    assert await read_served(store) == read_secret(home)["tls.crt"]


# --- the authority in the jobs' namespaces ------------------------------------------------------------------------


def read_bundle(api: Api) -> JsonObject | None:
    return api.read(CORE, "configmaps", CA_CONFIG_MAP)


def count_patches() -> float:
    """Patches of ConfigMaps that this process has sent."""
    labels = {"verb": "patch", "resource": "configmaps", "code": "200"}
    return REGISTRY.get_sample_value("finetune_api_requests_total", labels) or 0.0


@contextlib.asynccontextmanager
async def keeping(store: CertificateStore, namespace: str) -> AsyncIterator[None]:
    """The background task for a namespace with live jobs."""
    task = asyncio.create_task(store.keep_current(lambda: (namespace,)))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(probe: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, lambda: probe() or None)


async def test_the_authority_stands_where_jobs_are_and_is_written_once(
    store: CertificateStore, cluster: Cluster, settings: Settings, home: Api
) -> None:
    await store.load()
    await store.ensure(home.namespace)
    before = read_bundle(home)
    assert before is not None
    assert before["data"]["ca.crt"].encode() == read_secret(home)["ca.crt"]

    # Another process, as after a restart.
    again = CertificateStore(cluster, settings, lambda: datetime.now(UTC))
    await again.load()
    patches = count_patches()
    await again.ensure(home.namespace)

    assert read_bundle(home) == before
    assert count_patches() == patches, "an apply that changes nothing is a write all the same"


@pytest.mark.parametrize("change", ["deleted", "edited", "of an earlier certificate"])
async def test_at_its_start_the_operator_mends_the_authority_where_jobs_live(
    store: CertificateStore, home: Api, change: str
) -> None:
    await store.load()
    wanted = read_secret(home)["ca.crt"].decode()
    if change == "edited":
        home.create(
            CORE, "configmaps", {"metadata": {"name": CA_CONFIG_MAP}, "data": {"ca.crt": "x", "more": "y"}}
        )
    if change == "of an earlier certificate":
        await store.ensure(home.namespace)
        home.send(
            "PATCH",
            home.path(CORE, "secrets", SECRET),
            {"data": {"ca.key": None}},
            "application/merge-patch+json",
        )
        await store.load()
        wanted = read_secret(home)["ca.crt"].decode()

    async with keeping(store, home.namespace):
        await until(lambda: ((read_bundle(home) or {}).get("data") or {}).get("ca.crt") == wanted)


async def test_a_namespace_that_is_gone_keeps_nobody_else_waiting(
    store: CertificateStore, home: Api, control_plane: ControlPlane
) -> None:
    await store.load()

    async def keep() -> None:
        await store.keep_current(lambda: ("no-such-namespace", home.namespace))

    task = asyncio.create_task(keep())
    await until(lambda: read_bundle(home) is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_pod_that_knows_the_old_authority_reports_on_after_a_restart_with_a_new_leaf(
    api: Api, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    """Another host name makes the leaf new; the authority stays, and with it what running pods have mounted."""
    apply_job(api)
    reach_training(api, kubelet)
    token = make_token(api, kubelet.pod_of("bot-train-1"))
    known, port = read_authorities(api), operator.progress_port
    served = ssl.get_server_certificate(("127.0.0.1", port))

    with operator.restarted_with(FINETUNE_PROGRESS_SERVICE_URL=f"https://localhost:{port}"):
        renewed = ssl.get_server_certificate(("127.0.0.1", port))
        assert renewed != served
        assert read_authorities(api) == known

    assert post(api, operator, token, make_report(12)) == 200
