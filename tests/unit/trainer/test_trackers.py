"""What is decided from spec.tracking: which libraries, what they read, what they show, where their files go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from finetune_api.layout import RunLayout
from finetune_api.spec import Store, Tracking
from finetune_trainer.errors import UserError
from finetune_trainer.event_files import list_event_files
from finetune_trainer.tracked_settings import describe_settings
from finetune_trainer.tracker_secrets import read_secret, redacted
from finetune_trainer.trackers import (
    SecretKeys,
    TrackerName,
    decide_event_folders,
    decide_trackers,
    list_packages,
)
from finetune_trainer.unused_packages import FITTING_PACKAGES
from tests.builders.tracking import make_run, make_spec, mount_secret, plan

ALL: dict[str, Any] = {
    "tensorBoard": {},
    "swanLab": {},
    "mlflow": {"uri": "https://mlflow.example.com"},
    "wandb": {},
}
DIRECTORY = Path("/work/tracking")
LAYOUT = RunLayout("s3://models/bot", "tidy", "0123456789")
OUTPUT = Store(endpoint="https://output.example.com")
OTHER = {"endpoint": "https://curves.example.com"}


def test_every_tracker_of_the_spec_is_planned_and_no_other() -> None:
    assert decide_trackers(Tracking(), make_run(), DIRECTORY) == ()
    planned = decide_trackers(Tracking.model_validate(ALL), make_run(), DIRECTORY)

    assert [each.name for each in planned] == list(TrackerName)
    assert len({each.folder for each in planned}) == len(TrackerName)


ENVIRONMENTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "SwanLab's own server": (
        {"swanLab": {"project": "bots", "workspace": "team"}},
        {
            "SWANLAB_MODE": "online",
            "SWANLAB_PROJ_NAME": "bots",
            "SWANLAB_WORKSPACE": "team",
            "SWANLAB_EXP_NAME": "tidy",
            "SWANLAB_RUN_ID": "tidy-01234567",
            "SWANLAB_RESUME": "allow",
            "SWANLAB_INTERACTIVE": "false",
        },
    ),
    "a SwanLab server of one's own": (
        {"swanLab": {"uri": "https://swanlab.example.com"}},
        {
            "SWANLAB_API_HOST": "https://swanlab.example.com",
            "SWANLAB_WEB_HOST": "https://swanlab.example.com",
        },
    ),
    "SwanLab without a server": (
        {"swanLab": {"mode": "Offline"}},
        {"SWANLAB_MODE": "offline", "SWANLAB_RUN_DIR": "tidy-01234567-attempt-0002"},
    ),
    "MLflow": (
        {"mlflow": {"uri": "https://mlflow.example.com", "project": "bots"}},
        {
            "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
            "MLFLOW_EXPERIMENT_NAME": "bots",
            "MLFLOW_TAGS": json.dumps({"finetune.dev/run": "tidy-01234567", "finetune.dev/attempt": "2"}),
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
    ),
    "W&B": (
        {"wandb": {"project": "bots", "entity": "team", "uri": "https://wandb.example.com"}},
        {
            "WANDB_PROJECT": "bots",
            "WANDB_ENTITY": "team",
            "WANDB_BASE_URL": "https://wandb.example.com",
            "WANDB_NAME": "tidy",
            "WANDB_RUN_ID": "tidy-01234567",
            "WANDB_RESUME": "allow",
            "WANDB_CONSOLE": "off",
            "WANDB_INIT_TIMEOUT": "10",
        },
    ),
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_a_library_is_told_run_project_server_and_limits(case: str) -> None:
    tracking, expected = ENVIRONMENTS[case]
    planned = plan(tracking, make_run(attempt=2), DIRECTORY)

    assert {name: planned.environment.get(name) for name in expected} == expected


def test_what_the_spec_leaves_out_is_left_to_the_library() -> None:
    environments = {
        **plan({"swanLab": {}}, make_run(), DIRECTORY).environment,
        **plan({"wandb": {}}, make_run(), DIRECTORY).environment,
    }

    left = {"SWANLAB_API_HOST", "SWANLAB_WORKSPACE", "SWANLAB_PROJECT", "WANDB_BASE_URL", "WANDB_ENTITY"}
    assert not left & environments.keys()


def test_trackers_keep_their_files_below_their_own_folders() -> None:
    for planned in decide_trackers(Tracking.model_validate(ALL), make_run(), DIRECTORY):
        paths = [value for value in planned.environment.values() if value.startswith("/")]
        assert all(Path(path).is_relative_to(planned.folder) for path in paths)


FOLDERS: dict[str, tuple[dict[str, Any], list[tuple[str, str, str | None]]]] = {
    "no files": ({"swanLab": {}, "wandb": {}}, []),
    "event files in the run's folder": (
        {"tensorBoard": {}},
        [
            (
                "tensorboard",
                "s3://models/bot/runs/tidy-01234567/tensorboard",
                "https://output.example.com",
            )
        ],
    ),
    "event files elsewhere": (
        {"tensorBoard": {"uri": "s3://curves/bot/", "store": OTHER}},
        [("tensorboard", "s3://curves/bot", "https://curves.example.com")],
    ),
    "offline runs of SwanLab": (
        {"swanLab": {"mode": "Offline"}},
        [("swanlab", "s3://models/bot/runs/tidy-01234567/swanlab", "https://output.example.com")],
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_files_go_into_the_store(case: str) -> None:
    tracking, expected = FOLDERS[case]
    folders = decide_event_folders(Tracking.model_validate(tracking), LAYOUT, OUTPUT, DIRECTORY)

    assert [(each.folder.name, each.uri, each.store.endpoint) for each in folders] == expected


def test_published_folders_are_those_that_trackers_write() -> None:
    tracking = Tracking.model_validate({**ALL, "swanLab": {"mode": "Offline"}})
    planned = decide_trackers(tracking, make_run(), DIRECTORY)
    folders = decide_event_folders(tracking, LAYOUT, OUTPUT, DIRECTORY)

    assert {each.folder for each in folders} == {each.folder for each in planned if each.writes_files}


def test_hidden_files_of_a_tracker_are_not_published(tmp_path: Path) -> None:
    for name in ("b/events", "a", ".gitignore", ".cache/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert list_event_files(tmp_path) == [tmp_path / "a", tmp_path / "b/events"]
    assert list_event_files(tmp_path / "nothing") == []


# --- hyper-parameters ------------------------------------------------------------------------------------------


def test_settings_are_named_as_users_write_them() -> None:
    spec = make_spec(
        training__learningRate=0.25,
        method__lora={"rank": 4},
        dataset__train=[{"source": "s3://data/a.jsonl"}, {"source": "s3://data/b.jsonl"}],
        dataset__systemPrompt="x" * 600,
    )
    settings = describe_settings(spec, resolved={"totalSteps": 7}, environment={"worldSize": 2})

    assert settings["training.learningRate"] == 0.25
    assert settings["training.adamBetas"] == "[0.9, 0.999]"
    assert settings["method.lora.rank"] == 4
    assert settings["dataset.train.1.source"] == "s3://data/b.jsonl"
    assert settings["dataset.systemPrompt"] == "x" * 500 + "…"
    assert (settings["resolved.totalSteps"], settings["environment.worldSize"]) == (7, 2)


def test_settings_say_nothing_of_secrets() -> None:
    reference = {"name": "canary"}
    spec = make_spec(
        output__store={"credentialsSecretRef": reference},
        model={"source": "hf://org/name", "tokenSecretRef": reference},
        tracking={"wandb": {"secretRef": reference}},
        imagePullSecrets=[reference],
        env=[{"name": "HTTPS_PROXY", "value": "http://me:canary@proxy"}],
    )
    settings = describe_settings(spec, resolved={}, environment={})

    assert "canary" not in json.dumps(settings)
    assert settings["tracking.wandb.project"] == "finetune"


# --- secrets ---------------------------------------------------------------------------------------------------

MLFLOW = SecretKeys(
    "keys",
    "spec.tracking.mlflow.secretRef",
    (("MLFLOW_TRACKING_TOKEN",), ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")),
)


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "CONFIG_DIRECTORY", str(tmp_path / "etc"))


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"MLFLOW_TRACKING_TOKEN": "canary"}, id="a token"),
        pytest.param(
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "canary"}, id="user and password"
        ),
    ],
)
def test_keys_that_belong_together_are_read(mounts: None, keys: dict[str, str]) -> None:
    mount_secret("keys", {**keys, "unrelated": "x"})

    assert read_secret(MLFLOW) == keys
    assert redacted("Bearer canary", read_secret(MLFLOW)).startswith("Bearer <MLFLOW_TRACKING_")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        pytest.param(None, r"Secret 'keys' of spec\.tracking\.mlflow\.secretRef is not mounted", id="none"),
        pytest.param(
            {"token": "x"}, r"has not MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and", id="others"
        ),
        pytest.param({"MLFLOW_TRACKING_TOKEN": ""}, "has not MLFLOW_TRACKING_TOKEN", id="an empty one"),
    ],
)
def test_a_secret_that_lacks_keys_is_named(mounts: None, keys: dict[str, str] | None, words: str) -> None:
    if keys is not None:
        mount_secret("keys", keys)

    with pytest.raises(UserError, match=words):
        read_secret(MLFLOW)


def test_a_tracker_without_a_secret_reads_none() -> None:
    assert plan({"wandb": {}}, make_run(), DIRECTORY).secret is None
    assert read_secret(None) == {}


# --- imports ---------------------------------------------------------------------------------------------------


def test_the_packages_of_a_run_are_those_of_its_trackers() -> None:
    assert list_packages(Tracking()) == frozenset()
    assert list_packages(Tracking.model_validate({"tensorBoard": {}})) == {"tensorboard"}
    assert list_packages(Tracking.model_validate({"tensorBoard": {}, "swanLab": {}})) == {
        "tensorboard",
        "swanlab",
        *FITTING_PACKAGES,
    }


def imported(keep: str) -> set[str]:
    """Which trackers a rank's process can import, and has imported when it is ready to train."""
    program = (
        "import importlib.util, json, sys\n"
        "from finetune_trainer.unused_packages import leave_out_unused_packages\n"
        f"leave_out_unused_packages({keep})\n"
        "import finetune_trainer.train, finetune_trainer.callbacks.tracking\n"
        "names = ('mlflow', 'swanlab', 'tensorboard', 'wandb', 'PIL', 'datasets', 'scipy', 'sklearn')\n"
        "print(json.dumps([[n for n in names if importlib.util.find_spec(n)], [n for n in names if sys.modules.get(n)], list(sys.modules)]))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    can_import, has_imported, imported_modules = json.loads(ran.stdout.splitlines()[-1])
    assert has_imported == []
    assert "pandas" not in imported_modules
    return set(can_import)


def test_a_run_imports_no_tracker_before_it_opens_one() -> None:
    assert imported("") == set()
    assert imported("{'wandb', 'deepspeed'}") == {"wandb"}
