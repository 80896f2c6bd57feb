"""Settings: what the environment may say, and what is said of what it may not."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from finetune_api.spec import EnvironmentVariable, OutputStore
from finetune_operator.default_output import DefaultStore
from finetune_operator.hub_access import HUB_VARIABLES, CABundle, HubAccess
from finetune_operator.settings import SettingsError, load_settings

MINIMAL = {
    "FINETUNE_OPERATOR_NAMESPACE": "finetune-system",
    "FINETUNE_TRAINER_IMAGE": "trainer:1",
    "FINETUNE_PREPARE_IMAGE": "prepare:1",
}


def test_everything_else_has_a_default() -> None:
    settings = load_settings(MINIMAL)

    assert settings.watch_namespaces == ()
    assert settings.pods.progress_service_url == "https://finetune-operator.finetune-system.svc:8443"
    assert settings.progress_host == "finetune-operator.finetune-system.svc"
    assert (settings.progress_port, settings.health_port) == (8443, 8080)
    assert settings.progress_interval == timedelta(seconds=10)
    assert settings.pods.service_account is None
    assert (settings.lease_name, settings.lease_duration) == ("finetune-operator", timedelta(seconds=10))
    assert settings.progress_auth == "TokenReview"
    assert (settings.default_store, settings.trust_remote_code) == (None, False)
    assert (settings.pods.pass_through_labels, settings.pods.pass_through_annotations) == ((), ())


def test_the_default_patience_with_watches_can_be_kept() -> None:
    settings = load_settings(MINIMAL)

    # The API server sends a bookmark every minute: less patience would open healthy watches anew for ever.
    assert settings.watch_inactivity > timedelta(seconds=60)
    assert settings.watch_silence > 2 * settings.watch_inactivity


def test_lists_are_comma_separated() -> None:
    settings = load_settings(
        MINIMAL | {"FINETUNE_WATCH_NAMESPACES": "a, b,", "FINETUNE_IMAGE_PULL_SECRETS": "one,two"}
    )

    assert settings.watch_namespaces == ("a", "b")
    assert settings.pods.image_pull_secrets == ("one", "two")


def test_keys_that_may_pass_through_are_listed() -> None:
    settings = load_settings(
        MINIMAL
        | {
            "FINETUNE_PASS_THROUGH_LABELS": "example.com/team,cost-centre",
            "FINETUNE_PASS_THROUGH_ANNOTATIONS": "kueue.x-k8s.io/podset-required-topology",
        }
    )

    assert settings.pods.pass_through_labels == ("example.com/team", "cost-centre")
    assert settings.pods.pass_through_annotations == ("kueue.x-k8s.io/podset-required-topology",)


def test_how_hubs_are_reached_is_parsed_whole() -> None:
    settings = load_settings(
        MINIMAL
        | {
            "FINETUNE_HUB_ENVIRONMENT": '{"HF_ENDPOINT": "https://hub.example.com", "NO_PROXY": "a.com,.svc"}',
            "FINETUNE_HUB_CA_CONFIG_MAP": "corporate",
            "FINETUNE_HUB_CA_KEY": "bundle.pem",
        }
    )

    assert settings.pods.hub == HubAccess(
        {"HF_ENDPOINT": "https://hub.example.com", "NO_PROXY": "a.com,.svc"},
        CABundle("corporate", "bundle.pem"),
    )


def test_hubs_are_reached_as_the_image_reaches_them_where_nothing_is_set() -> None:
    empty = {"FINETUNE_HUB_ENVIRONMENT": "{}", "FINETUNE_HUB_CA_CONFIG_MAP": "", "FINETUNE_HUB_CA_KEY": ""}

    assert load_settings(MINIMAL).pods.hub == load_settings(MINIMAL | empty).pods.hub == HubAccess()


def test_an_administrator_may_set_only_what_every_user_may_set_too() -> None:
    for name in HUB_VARIABLES:
        assert EnvironmentVariable(name=name, value="x").name == name


def test_a_default_store_is_parsed_whole() -> None:
    store = {"endpoint": "https://s3.example.com", "credentialsSecretRef": {"name": "keys"}}
    content = json.dumps({"uri": "s3://models/tuned/", "store": store})

    settings = load_settings(MINIMAL | {"FINETUNE_DEFAULT_STORE": content})

    assert settings.default_store == DefaultStore("s3://models/tuned", OutputStore.model_validate(store))


def test_a_copy_of_the_clusters_keys_goes_with_their_issuer() -> None:
    both = {"FINETUNE_PROGRESS_KEYS_PATH": "/keys.json", "FINETUNE_PROGRESS_ISSUER": "https://issuer"}

    settings = load_settings(MINIMAL | both)

    assert (settings.progress_keys_path, settings.progress_issuer) == ("/keys.json", "https://issuer")
    for name in both:
        with pytest.raises(SettingsError, match=name):
            load_settings(MINIMAL | {key: value for key, value in both.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINETUNE_OPERATOR_NAMESPACE", ""),
        ("FINETUNE_TRAINER_IMAGE", ""),
        ("FINETUNE_PREPARE_IMAGE", ""),
        ("FINETUNE_IMAGE_PULL_POLICY", "Sometimes"),
        ("FINETUNE_PROGRESS_PORT", "https"),
        ("FINETUNE_HEALTH_PORT", "70000"),
        ("FINETUNE_PROGRESS_INTERVAL_SECONDS", "0"),
        ("FINETUNE_RESTART_DELAY_SECONDS", "-1"),
        ("FINETUNE_RESYNC_SECONDS", "soon"),
        ("FINETUNE_PROGRESS_SERVICE_URL", "http://operator:8443"),
        ("FINETUNE_PROGRESS_SERVICE_URL", "https://operator:8443/path"),
        ("FINETUNE_LOG_FORMAT", "xml"),
        ("FINETUNE_LOG_LEVEL", "LOUD"),
        ("FINETUNE_LEASE_SECONDS", "2"),
        ("FINETUNE_WATCH_SILENCE_SECONDS", "140"),
        ("FINETUNE_WATCH_INACTIVITY_SECONDS", "75"),
        ("FINETUNE_PROGRESS_AUTH", "None"),
        ("FINETUNE_TRUST_REMOTE_CODE", "yes"),
        ("FINETUNE_PASS_THROUGH_LABELS", "a b/c/d"),
        ("FINETUNE_PASS_THROUGH_LABELS", "finetune.dev/job-uid"),
        ("FINETUNE_PASS_THROUGH_LABELS", "batch.kubernetes.io/job-name"),
        ("FINETUNE_PASS_THROUGH_LABELS", "app.kubernetes.io/name"),
        ("FINETUNE_PASS_THROUGH_LABELS", "kueue.x-k8s.io/queue-name"),
        ("FINETUNE_PASS_THROUGH_ANNOTATIONS", "finetune.dev/spec-digest"),
        ("FINETUNE_HUB_ENVIRONMENT", "HF_ENDPOINT=https://hub"),
        ("FINETUNE_HUB_ENVIRONMENT", '["HF_ENDPOINT"]'),
        ("FINETUNE_HUB_ENVIRONMENT", '{"HF_HUB_DISABLE_XET": 1}'),
        ("FINETUNE_HUB_ENVIRONMENT", '{"HF_TOKEN": "hf_abc"}'),
        ("FINETUNE_HUB_ENVIRONMENT", '{"LD_PRELOAD": "x.so"}'),
        ("FINETUNE_HUB_ENVIRONMENT", '{"HTTPS_PROXY": "http://user:secret@proxy"}'),
        ("FINETUNE_HUB_ENVIRONMENT", '{"HF_ENDPOINT": ""}'),
        ("FINETUNE_DEFAULT_STORE", "s3://models"),
        ("FINETUNE_DEFAULT_STORE", '{"store": {}}'),
        ("FINETUNE_DEFAULT_STORE", '{"uri": "https://models"}'),
        ("FINETUNE_DEFAULT_STORE", '{"uri": "s3://models", "store": {"endpont": "https://s3"}}'),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings(MINIMAL | {name: value})
