"""How prepare pods reach hubs: which pods get the installation's mirrors, proxies and authorities, and who wins."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_operator.hub_access import CABundle, HubAccess
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests import desired_objects
from tests.unit.operator.builders import make_job, make_pod_settings

OPERATOR = "finetune-operator.finetune-system.svc"
PROXY, MIRROR = "http://proxy:3128", "https://hub.example.com"
ROWS = "s3://data/train.jsonl"
HUB_MODEL: dict[str, Any] = {"model": {"source": "hf://Qwen/Qwen3-0.6B"}}


def pod_of(stage: Stage, hub: HubAccess, **changes: Any) -> JsonObject:
    objects = desired_objects(make_job(**changes), stage, 1, make_pod_settings(hub=hub))
    spec: JsonObject = objects.job["spec"]["template"]["spec"]
    return spec


def environment(stage: Stage, hub: HubAccess | None = None, **changes: Any) -> dict[str, str]:
    (container,) = pod_of(stage, hub or HubAccess(), **changes)["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def variables(**values: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


@pytest.mark.parametrize("stage", [Stage.TRAIN, Stage.EXPORT])
def test_what_trains_and_exports_asks_no_hub(stage: Stage) -> None:
    assert environment(stage, **HUB_MODEL)["HF_HUB_OFFLINE"] == "1"


def test_prepare_asks_hubs_and_tells_them_nothing_of_itself() -> None:
    shown = environment(Stage.PREPARE)

    assert "HF_HUB_OFFLINE" not in shown
    assert (shown["HF_HUB_DISABLE_TELEMETRY"], shown["DO_NOT_TRACK"]) == ("1", "1")


def test_what_hubs_send_is_kept_on_the_pods_own_volume() -> None:
    pod = pod_of(Stage.PREPARE, HubAccess())
    (work,) = (each for each in pod["containers"][0]["volumeMounts"] if not each.get("readOnly"))

    shown = environment(Stage.PREPARE)

    assert work["mountPath"] == "/work"
    assert (shown["HF_HOME"], shown["MODELSCOPE_CACHE"]) == ("/work/hf", "/work/modelscope")


# The stage, the change of a job that names no hub, and whether the installation's mirror is set.
ASKS = {
    "a model of Hugging Face": (Stage.PREPARE, HUB_MODEL, True),
    "a model of ModelScope": (Stage.PREPARE, {"model": {"source": "modelscope://Qwen/Qwen2-0.5B"}}, True),
    "an adapter of a hub": (Stage.PREPARE, {"model__adapterSource": "hf://org/adapter"}, True),
    "rows of a hub": (
        Stage.PREPARE,
        {"dataset__train": [{"source": ROWS}, {"source": "hf://org/a:zh"}]},
        True,
    ),
    "validation rows of a hub": (
        Stage.PREPARE,
        {"dataset__validation": {"sources": [{"source": "modelscope://org/rows"}]}},
        True,
    ),
    "test rows of a hub": (Stage.PREPARE, {"dataset__test": [{"source": "hf://org/rows"}]}, True),
    "no hub": (Stage.PREPARE, {"dataset__train": [{"inline": [{"text": "a"}]}]}, False),
    "training from what prepare fetched": (Stage.TRAIN, HUB_MODEL, False),
    "export": (Stage.EXPORT, HUB_MODEL, False),
    "cleanup": (Stage.CLEANUP, HUB_MODEL, False),
}


@pytest.mark.parametrize(("stage", "changes", "asks"), ASKS.values(), ids=ASKS.keys())
def test_only_pods_that_ask_a_hub_are_led_to_the_mirror(
    stage: Stage, changes: dict[str, Any], asks: bool
) -> None:
    hub = HubAccess({"HF_ENDPOINT": MIRROR, "HTTPS_PROXY": PROXY}, CABundle("corporate", "ca.crt"))

    shown = environment(stage, hub, **changes)
    mounted = {each["mountPath"] for each in pod_of(stage, hub, **changes)["containers"][0]["volumeMounts"]}

    assert (shown.get("HF_ENDPOINT"), shown.get("HTTPS_PROXY")) == ((MIRROR, PROXY) if asks else (None, None))
    assert ("SSL_CERT_FILE" in shown) is ("/etc/finetune/hub-ca" in mounted) is asks


# What the administrator set, what the user set, and what the pod has of it.
WINNERS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "the user's mirror": (
        {"HF_ENDPOINT": MIRROR},
        {"HF_ENDPOINT": "https://mine.example.com"},
        {"HF_ENDPOINT": "https://mine.example.com"},
    ),
    "the user's proxy, written small": (
        {"HTTPS_PROXY": PROXY},
        {"https_proxy": "http://mine:1"},
        {"https_proxy": "http://mine:1", "NO_PROXY": OPERATOR},
    ),
    "the user's ModelScope, by its other name": (
        {"MODELSCOPE_ENDPOINT": MIRROR},
        {"MODELSCOPE_DOMAIN": "mine.example.com"},
        {"MODELSCOPE_DOMAIN": "mine.example.com"},
    ),
    "the administrator's proxy beside the user's mirror": (
        {"HTTPS_PROXY": PROXY, "HF_ENDPOINT": MIRROR},
        {"HF_ENDPOINT": "https://mine.example.com"},
        {"HTTPS_PROXY": PROXY, "NO_PROXY": OPERATOR, "HF_ENDPOINT": "https://mine.example.com"},
    ),
}


@pytest.mark.parametrize(("theirs", "users", "expected"), WINNERS.values(), ids=WINNERS.keys())
def test_what_the_user_sets_wins(
    theirs: dict[str, str], users: dict[str, str], expected: dict[str, str]
) -> None:
    shown = environment(Stage.PREPARE, HubAccess(theirs), env=variables(**users), **HUB_MODEL)

    assert {
        name: shown[name] for name in shown if name.upper().endswith(("_PROXY", "ENDPOINT", "DOMAIN"))
    } == expected


PAST_PROXIES = {
    "no exceptions": ({"HTTPS_PROXY": PROXY}, {"NO_PROXY": OPERATOR}),
    "exceptions of the user's": (
        {"HTTP_PROXY": PROXY, "NO_PROXY": "example.com, .svc"},
        {"NO_PROXY": f"example.com, .svc,{OPERATOR}"},
    ),
    "exceptions written small": (
        {"https_proxy": PROXY, "no_proxy": "example.com"},
        {"no_proxy": f"example.com,{OPERATOR}"},
    ),
    "everything excepted": ({"https_proxy": PROXY, "NO_PROXY": "*"}, {"NO_PROXY": "*"}),
    "no proxy": ({"TZ": "UTC"}, {}),
}


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN, Stage.EXPORT])
@pytest.mark.parametrize(("users", "expected"), PAST_PROXIES.values(), ids=PAST_PROXIES.keys())
def test_progress_goes_past_every_proxy(
    stage: Stage, users: dict[str, str], expected: dict[str, str]
) -> None:
    shown = environment(stage, env=variables(**users))

    assert {name: shown[name] for name in shown if name.lower() == "no_proxy"} == expected


def test_the_store_is_reached_past_the_proxy_for_hubs_as_train_pods_reach_it() -> None:
    changes = {**HUB_MODEL, "output__store__endpoint": "https://s3.example.com:9000"}
    hub = HubAccess({"HTTPS_PROXY": PROXY, "NO_PROXY": ".svc"})

    theirs = environment(Stage.PREPARE, hub, **changes)
    users = environment(Stage.PREPARE, env=variables(HTTPS_PROXY=PROXY), **changes)

    assert theirs["NO_PROXY"] == f".svc,{OPERATOR},s3.example.com"
    # A proxy of the user's own stands before train pods, too: they know whether the store is behind it.
    assert users["NO_PROXY"] == OPERATOR


def test_the_authorities_stand_where_openssl_and_requests_look_for_them() -> None:
    hub = HubAccess(ca_bundle=CABundle("corporate", "bundle.pem"))
    pod = pod_of(Stage.PREPARE, hub, **HUB_MODEL)

    (volume,) = (each for each in pod["volumes"] if each["name"] == "hub-ca")
    (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "hub-ca")
    shown = environment(Stage.PREPARE, hub, **HUB_MODEL)

    # By its key: a ConfigMap without it keeps the pod from starting, with an event that says so.
    items = [{"key": "bundle.pem", "path": "ca.crt"}]
    assert volume["configMap"] == {"name": "corporate", "items": items}
    assert mount == {"name": "hub-ca", "mountPath": "/etc/finetune/hub-ca", "readOnly": True}
    assert shown["SSL_CERT_FILE"] == f"{mount['mountPath']}/ca.crt"
    assert "REQUESTS_CA_BUNDLE" not in shown, "the store's client would trust nobody else"
