"""Settings: what the environment may say, and what is said of what it may not."""

from __future__ import annotations

from datetime import timedelta

import pytest

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


def test_lists_are_comma_separated() -> None:
    settings = load_settings(
        MINIMAL | {"FINETUNE_WATCH_NAMESPACES": "a, b,", "FINETUNE_IMAGE_PULL_SECRETS": "one,two"}
    )

    assert settings.watch_namespaces == ("a", "b")
    assert settings.pods.image_pull_secrets == ("one", "two")


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
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings(MINIMAL | {name: value})
