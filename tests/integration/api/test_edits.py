"""Which edits the API server takes, by field and phase; what the operator writes to the status is never held to them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from finetune_api.spec import Preparation
from finetune_api.status import Phase
from tests.builders.jobs import make_manifest
from tests.integration.api.test_acceptance import EVERYTHING
from tests.integration.operator.api_client import FINETUNE, MERGE, Api, RequestRefused

SETTLED = "can be changed only while the job is Pending, Queued, Suspended or Failed"
NEVER = "is immutable: it defines the run"
_NUMBERS = itertools.count()


def create(api: Api, phase: str | None, **changes: Any) -> str:
    """A job in that phase; returns its name."""
    name = f"edited-{next(_NUMBERS)}"
    api.create(FINETUNE, "finetunejobs", make_manifest(name=name, **changes))
    if phase is not None:
        write_status(api, name, {"phase": phase})
    return name


def write_status(api: Api, name: str, status: dict[str, Any]) -> None:
    api.send("PATCH", f"{api.path(FINETUNE, 'finetunejobs', name)}/status", {"status": status}, MERGE)


def edit(api: Api, name: str, spec: dict[str, Any]) -> None:
    api.send("PATCH", api.path(FINETUNE, "finetunejobs", name), {"spec": spec}, MERGE)


S3_ROWS = [{"source": "s3://data/train.jsonl"}]
KEYS = {"credentialsSecretRef": {"name": "other"}}
# Fields that change from the next attempt on: while nothing runs that was made from them.
SETTLED_EDITS: list[tuple[str, dict[str, Any]]] = [
    ("parallelism", {"parallelism": {"gpusPerNode": 4}}),
    ("resources", {"resources": {"memory": "64Gi"}}),
    ("checkpoints", {"checkpoints": {"keepLast": 5}}),
    ("checkpoints.everySteps, whose default is not written", {"checkpoints": {"everySteps": 50}}),
    ("evaluation", {"evaluation": {"maxSamples": 10}}),
    ("tracking", {"tracking": {"wandb": {}}}),
    ("queueName that comes", {"queueName": "team-a"}),
    ("image that comes", {"image": "trainer:2"}),
    ("imagePullSecrets", {"imagePullSecrets": [{"name": "registry"}]}),
    ("env", {"env": [{"name": "TZ", "value": "UTC"}]}),
    ("output.store", {"output": {"store": KEYS}}),
    ("output.export, with what it needs already there", {"output": {"quantized": "INT8"}}),
    ("output.merged.enabled, whose default is not written", {"output": {"merged": {"enabled": False}}}),
    ("model.store that comes", {"model": {"store": KEYS}}),
    ("the store of a data source", {"dataset": {"train": [{**S3_ROWS[0], "store": KEYS}]}}),
    ("training.microBatchTokens that comes", {"training": {"microBatchTokens": 4096}}),
    ("training.gradientCheckpointing", {"training": {"gradientCheckpointing": "Enabled"}}),
    ("training.loggingSteps", {"training": {"loggingSteps": 10}}),
    ("failurePolicy.maxRestarts", {"failurePolicy": {"maxRestarts": 9}}),
    ("failurePolicy.onOutOfMemory", {"failurePolicy": {"onOutOfMemory": "Fail"}}),
]
ALWAYS_EDITS: list[tuple[str, dict[str, Any]]] = [
    ("suspend", {"suspend": True}),
    ("retry", {"retry": 2}),
    ("failurePolicy.pendingDeadlineSeconds", {"failurePolicy": {"pendingDeadlineSeconds": 60}}),
    ("failurePolicy.activeDeadlineSeconds", {"failurePolicy": {"activeDeadlineSeconds": 60}}),
    ("ttlSecondsAfterFinished", {"ttlSecondsAfterFinished": 60}),
    ("deletionPolicy", {"deletionPolicy": "Delete"}),
]
PREPARATION_EDITS: dict[str, Any] = {
    "maxLength": 64,
    "minLength": 4,
    "minCharacters": 2,
    "maxCharacters": 900,
    "overlong": "Truncate",
    "invalidRows": "Drop",
    "unicode": "NFC",
    "fullWidth": "Narrow",
    "noise": ["HTML"],
    "regex": [{"pattern": "x"}],
    "redact": ["Email"],
    "duplicates": "Exact",
    "leakage": "Keep",
    "augment": {"methods": ["Reorder"]},
    "balance": {"method": "Downsample"},
}
IMMUTABLE_EDITS: list[tuple[str, dict[str, Any], str]] = [
    (
        "the task",
        {"task": "SequenceClassification", "labels": ["a", "b"]},
        f"task is immutable, labels {NEVER}",
    ),
    ("the model", {"model": {"source": "s3://models/other"}}, f"model.source {NEVER}"),
    (
        "an adapter that comes",
        {"model": {"adapterSource": "s3://models/law"}},
        f"model.adapterSource {NEVER}",
    ),
    ("remote code", {"model": {"trustRemoteCode": True}}, f"model.trustRemoteCode {NEVER}"),
    ("the rows", {"dataset": {"train": [{"source": "s3://data/other.jsonl"}]}}, f"dataset.train {NEVER}"),
    ("one source more", {"dataset": {"train": [*S3_ROWS, *S3_ROWS]}}, f"dataset.train {NEVER}"),
    (
        "rows in the object instead",
        {"dataset": {"train": [{"inline": [{"a": "b"}]}]}},
        f"dataset.train {NEVER}",
    ),
    ("the format", {"dataset": {"train": [{**S3_ROWS[0], "format": "Text"}]}}, f"dataset.train {NEVER}"),
    (
        "columns that come",
        {"dataset": {"train": [{**S3_ROWS[0], "columns": {"input": "q"}}]}},
        f"dataset.train {NEVER}",
    ),
    ("the number of rows", {"dataset": {"train": [{**S3_ROWS[0], "maxRows": 5}]}}, f"dataset.train {NEVER}"),
    ("the weight", {"dataset": {"train": [{**S3_ROWS[0], "weight": 2}]}}, f"dataset.train {NEVER}"),
    ("validation that comes", {"dataset": {"validation": {"fraction": 0.1}}}, f"dataset.validation {NEVER}"),
    ("test rows that come", {"dataset": {"test": S3_ROWS}}, f"dataset.test {NEVER}"),
    *(
        (
            f"preparation.{field}",
            {"dataset": {"preparation": {field: value}}},
            f"dataset.preparation {NEVER}",
        )
        for field, value in PREPARATION_EDITS.items()
    ),
    ("the system prompt", {"dataset": {"systemPrompt": "Be brief."}}, f"dataset.systemPrompt {NEVER}"),
    ("the method", {"method": {"type": "Full"}}, f"method.type {NEVER}"),
    ("the rank, whose block was not written", {"method": {"lora": {"rank": 8}}}, f"method.lora {NEVER}"),
    ("the target modules", {"method": {"lora": {"targetModules": ["q_proj"]}}}, f"method.lora {NEVER}"),
    ("epochs that come", {"training": {"epochs": 1}}, f"training.epochs {NEVER}"),
    ("the learning rate", {"training": {"learningRate": 0.1}}, f"training.learningRate {NEVER}"),
    (
        "the batch, whose default is not written",
        {"training": {"globalBatchSize": 8}},
        f"training.globalBatchSize {NEVER}",
    ),
    ("the optimizer", {"training": {"optimizer": "AdamW8bit"}}, f"training.optimizer {NEVER}"),
    ("the betas", {"training": {"adamBetas": [0.9, 0.95]}}, f"training.adamBetas {NEVER}"),
    ("the seed", {"training": {"seed": 7}}, f"training.seed {NEVER}"),
    ("the place of the run", {"output": {"uri": "s3://models/other"}}, f"output.uri {NEVER}"),
    ("an output that goes", {"output": None}, "output cannot be added or removed"),
    ("an earlier run that comes", {"resumeFrom": {"run": "bot-0123abcd"}}, f"resumeFrom {NEVER}"),
    ("an end that comes", {"stopAfter": "Prepare"}, f"stopAfter {NEVER}"),
]
RUNNING = (Phase.PREPARING, Phase.TRAINING, Phase.RESTARTING, Phase.EXPORTING, Phase.SUCCEEDED)
QUIET = (None, Phase.PENDING, Phase.QUEUED, Phase.SUSPENDED, Phase.FAILED)


@pytest.mark.parametrize("spec", [pytest.param(spec, id=name) for name, spec in SETTLED_EDITS])
def test_what_an_attempt_is_made_from_changes_only_while_none_runs(api: Api, spec: dict[str, Any]) -> None:
    name = create(api, Phase.TRAINING)
    with pytest.raises(RequestRefused, match=SETTLED):
        edit(api, name, spec)

    write_status(api, name, {"phase": Phase.SUSPENDED})

    edit(api, name, spec)


@pytest.mark.parametrize("phase", RUNNING)
def test_resources_are_held_in_every_phase_in_which_pods_run_or_the_job_has_its_model(
    api: Api, phase: Phase
) -> None:
    with pytest.raises(
        RequestRefused, match=f"resources {SETTLED}: set suspend: true, wait for phase Suspended"
    ):
        edit(api, create(api, phase), {"resources": {"memory": "64Gi"}})


@pytest.mark.parametrize("phase", QUIET)
def test_resources_are_free_in_every_phase_in_which_no_pod_runs(api: Api, phase: Phase | None) -> None:
    edit(api, create(api, phase), {"resources": {"memory": "64Gi"}})


@pytest.mark.parametrize("phase", [Phase.TRAINING, Phase.SUCCEEDED, Phase.FAILED])
@pytest.mark.parametrize("spec", [pytest.param(spec, id=name) for name, spec in ALWAYS_EDITS])
def test_what_the_operator_watches_itself_changes_at_any_time(
    api: Api, spec: dict[str, Any], phase: Phase
) -> None:
    edit(api, create(api, phase), spec)


@pytest.mark.parametrize("phase", [None, Phase.SUSPENDED])
@pytest.mark.parametrize(("spec", "sentence"), [pytest.param(s, m, id=i) for i, s, m in IMMUTABLE_EDITS])
def test_what_defines_the_run_never_changes(
    api: Api, spec: dict[str, Any], sentence: str, phase: Phase | None
) -> None:
    with pytest.raises(RequestRefused) as refusal:
        edit(api, create(api, phase), spec)

    assert sentence in refusal.value.message


def test_a_refusal_names_every_field_that_was_changed(api: Api) -> None:
    with pytest.raises(RequestRefused) as refusal:
        edit(
            api,
            create(api, Phase.TRAINING),
            {"training": {"seed": 7, "learningRate": 0.1}, "env": [], "resources": {"memory": "64Gi"}},
        )

    assert 'spec: Invalid value: "object": ' in refusal.value.message
    assert f"training.learningRate is immutable, training.seed {NEVER}" in refusal.value.message
    assert f"resources, env {SETTLED}" in refusal.value.message


@pytest.mark.parametrize("phase", [None, Phase.TRAINING])
def test_an_edit_that_also_claims_another_status_is_refused_like_any_other(
    api: Api, phase: Phase | None
) -> None:
    """Who changes the status is not held to these rules, but this way nobody changes it."""
    path = api.path(FINETUNE, "finetunejobs", create(api, phase))
    status = {"phase": Phase.SUSPENDED, "message": "Let me.", "reason": "Trick"}

    with pytest.raises(RequestRefused, match=NEVER):
        api.send("PATCH", path, {"spec": {"training": {"seed": 7}}, "status": status}, MERGE)
    if phase is not None:
        with pytest.raises(RequestRefused, match=SETTLED):
            api.send("PATCH", path, {"spec": {"resources": {"memory": "64Gi"}}, "status": status}, MERGE)


def test_a_reference_that_is_there_can_be_taken_away_while_none_runs(api: Api) -> None:
    name = create(api, Phase.TRAINING, **EVERYTHING)
    token = [{**source, "tokenSecretRef": None} for source in EVERYTHING["dataset"]["train"]]
    without_token = [{key: value for key, value in source.items() if value is not None} for source in token]
    for spec in (
        {"dataset": {"train": without_token}},
        {"model": {"tokenSecretRef": None}},
        {"queueName": None, "workloadPriorityClassName": None},
    ):
        with pytest.raises(RequestRefused, match=SETTLED):
            edit(api, name, spec)

    write_status(api, name, {"phase": Phase.SUSPENDED})

    edit(
        api,
        name,
        {
            "dataset": {"train": without_token},
            "model": {"tokenSecretRef": None},
            "queueName": None,
            "workloadPriorityClassName": None,
        },
    )


def test_what_defines_the_run_cannot_be_taken_away_either(api: Api) -> None:
    name = create(api, Phase.SUSPENDED, **EVERYTHING)

    for spec, field in (
        ({"model": {"revision": None}}, "model.revision"),
        ({"dataset": {"validation": None}}, "dataset.validation"),
        ({"dataset": {"test": None}}, "dataset.test"),
        ({"dataset": {"preparation": {"maxInvalidFraction": None}}}, "dataset.preparation"),
        ({"dataset": {"preparation": {"duplicateThreshold": None}}}, "dataset.preparation"),
        ({"dataset": {"preparation": {"noise": None}}}, "dataset.preparation"),
        ({"training": {"maxSteps": None}}, "training.maxSteps"),
        ({"training": {"earlyStopping": None}}, "training.earlyStopping"),
        ({"method": {"lora": None}}, "method.lora"),
    ):
        with pytest.raises(RequestRefused, match=f"{field} {NEVER}"):
            edit(api, name, spec)


def test_every_field_of_preparation_is_tried() -> None:
    """The two that only go together with another field are taken away above."""
    fields = {field.alias for field in Preparation.model_fields.values()}

    assert fields == {*PREPARATION_EDITS, "maxInvalidFraction", "duplicateThreshold"}


@pytest.mark.parametrize(
    ("length", "may_go"),
    [pytest.param(64, False, id="one of the user's"), pytest.param(1024, True, id="what was once written")],
)
def test_a_longest_row_goes_only_where_it_was_once_the_written_default(
    api: Api, length: int, may_go: bool
) -> None:
    name = create(api, None, dataset__preparation={"maxLength": length})
    without = {"dataset": {"preparation": {"maxLength": None}}}

    if may_go:
        edit(api, name, without)
    else:
        with pytest.raises(RequestRefused, match=f"dataset.preparation {NEVER}"):
            edit(api, name, without)


def test_a_row_in_the_object_never_changes(api: Api) -> None:
    """The fields of inline rows have no schema; they count all the same."""
    name = create(api, None, dataset__train=[{"inline": [{"text": "a"}]}])

    with pytest.raises(RequestRefused, match=f"dataset.train {NEVER}"):
        edit(api, name, {"dataset": {"train": [{"inline": [{"text": "b"}]}]}})


def test_retry_is_never_lowered(api: Api) -> None:
    name = create(api, Phase.FAILED, retry=2)
    edit(api, name, {"retry": 3})

    with pytest.raises(
        RequestRefused, match="retry counts how often a failed job was taken up again and cannot be lowered"
    ):
        edit(api, name, {"retry": 2})


def test_writing_a_default_out_is_no_change(api: Api) -> None:
    name = create(api, Phase.TRAINING, dataset__preparation={"invalidRows": "Drop"})

    edit(
        api,
        name,
        {
            "dataset": {"preparation": {"maxInvalidFraction": 0.1, "unicode": "None", "leakage": "Drop"}},
            "method": {"lora": {"rank": 16}},
            "training": {"globalBatchSize": 16},
            "checkpoints": {"everySteps": 100},
            "output": {"merged": {"enabled": True}, "adapter": True},
        },
    )


@pytest.mark.parametrize("phase", list(Phase))
def test_the_status_can_be_written_in_every_phase(api: Api, phase: Phase) -> None:
    name = create(api, phase, **EVERYTHING)

    for following in Phase:
        write_status(api, name, {"phase": following, "message": f"after {phase}"})


def test_a_job_of_the_greatest_size_can_be_edited_and_its_status_written(api: Api) -> None:
    """The rules are evaluated within the API server's budget, also where every list is full."""
    row = {"inline": [{"text": "x" * 8, "label": "y"}] * 256}
    name = create(
        api,
        Phase.TRAINING,
        dataset__train=[row] * 32,
        dataset__test=[row] * 16,
        dataset__validation={"sources": [row] * 16},
        dataset__chatTemplate="x" * 65_536,
        env=[{"name": f"NCCL_A{number}", "value": "x" * 1000} for number in range(64)],
    )

    edit(api, name, {"suspend": True})
    write_status(api, name, {"phase": Phase.SUSPENDED})
    edit(api, name, {"resources": {"memory": "64Gi"}})
