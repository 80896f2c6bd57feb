"""`resumeFrom.run`: the earlier run whose newest checkpoint this one goes on from, and whether it may. Torch-free.

What decides what the weights mean and which rows were seen must be the same: task, base model, data, method, optimizer,
seed and batch size. Learning rate, schedule and length may differ: a run may go on for more epochs, or more slowly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError

from finetune_api.layout import RunLayout
from finetune_api.spec import Method, MethodType, ResumeFrom
from finetune_trainer.checkpoints import CheckpointManifest, CheckpointSearch, find_newest_checkpoint
from finetune_trainer.errors import ObjectMissing, UserError
from finetune_trainer.run_file import RunFile, RunSettings, load_run_file
from finetune_trainer.storage import ObjectStore

# `auto` and the names it stands for are the same; the resolved names are compared.
_TARGETS = {
    MethodType.ADA_LORA: "method.adaLora.targetModules",
    MethodType.IA3: "method.ia3.targetModules",
}
_LORA_TARGETS, _FEEDFORWARD = "method.lora.targetModules", "method.ia3.feedforwardModules"
_RESOLVED_ELSEWHERE = frozenset({*_TARGETS.values(), _LORA_TARGETS, _FEEDFORWARD})


@dataclass(frozen=True)
class EarlierRun:
    """What prepare left of the earlier run, and the checkpoint to go on from."""

    run_file: RunFile
    checkpoint: CheckpointManifest


def layout_of_run(layout: RunLayout, run_id: str) -> RunLayout:
    """Where another run of the same model stands; `run_id` is the name of its folder."""
    name, _, uid = run_id.rpartition("-")
    return RunLayout(output_uri=layout.output_uri, name=name, uid=uid)


def find_earlier_run(
    store: ObjectStore, layout: RunLayout, resume_from: ResumeFrom | None
) -> EarlierRun | None:
    """Find the run that resumeFrom names; None where it names none. Raises UserError for one that cannot be used."""
    if resume_from is None:
        return None
    earlier = layout_of_run(layout, resume_from.run)
    run_file = _load_run_file(store, earlier)
    search = find_newest_checkpoint(store, earlier)
    if search.manifest is None:
        raise no_checkpoint_error(earlier, search)
    return EarlierRun(run_file, search.manifest)


def no_checkpoint_error(earlier: RunLayout, search: CheckpointSearch) -> UserError:
    """Nothing of that run can be gone on from."""
    why = f" ({'; '.join(search.passed_over)})" if search.passed_over else ""
    return UserError(
        f"resumeFrom.run {earlier.run_id} has no valid checkpoint at {earlier.checkpoints_uri}{why}. Name a run that "
        "has one, or remove resumeFrom to start from the base model."
    )


def refuse_differences(earlier: EarlierRun, run_file: RunFile, method: MethodType) -> None:
    """Raise UserError that names every difference which forbids going on from the earlier run."""
    theirs = earlier.run_file.settings
    if theirs is None:
        raise UserError(
            f"resumeFrom.run {earlier.run_file.run} was prepared by an earlier release, which did not record its "
            "method. Remove resumeFrom to start from the base model."
        )
    differences = [
        *_data_differences(earlier.run_file, run_file),
        *_setting_differences(theirs, run_file),
    ]
    if theirs.method.get("type") == method:
        differences += _module_differences(earlier.run_file, run_file, method)
    if differences:
        raise UserError(
            f"resumeFrom.run {earlier.run_file.run} is another training than this one: {'; '.join(differences)}. "
            "Set the same here, or remove resumeFrom to start from the base model."
        )
    if earlier.checkpoint.step > run_file.total_steps:
        raise UserError(
            f"resumeFrom.run {earlier.run_file.run} stands at step {earlier.checkpoint.step}, but this job ends at "
            f"step {run_file.total_steps}. Raise training.epochs or training.maxSteps."
        )


def _load_run_file(store: ObjectStore, earlier: RunLayout) -> RunFile:
    try:
        return load_run_file(store, earlier)
    except ObjectMissing as error:
        raise UserError(
            f"resumeFrom.run {earlier.run_id} does not exist: there is no {earlier.run_file_uri}. Name a folder below "
            f"{earlier.root}/runs/ (<name>-<first eight characters of the uid>)."
        ) from error
    except ValidationError as error:
        raise UserError(
            f"resumeFrom.run {earlier.run_id} was prepared by another release: {earlier.run_file_uri} cannot be read. "
            "Remove resumeFrom to start from the base model."
        ) from error


def _data_differences(theirs: RunFile, ours: RunFile) -> Iterator[str]:
    if theirs.model.digest != ours.model.digest:
        yield (
            f"its base model is {theirs.model.described} with digest {theirs.model.digest[:12]}, "
            f"this one's is {ours.model.described} with digest {ours.model.digest[:12]}"
        )
    if theirs.dataset.digest != ours.dataset.digest:
        yield (
            f"its data (rows, tokenizer, dataset settings) have digest {theirs.dataset.digest[:12]}, "
            f"this one's {ours.dataset.digest[:12]}"
        )


def _module_differences(theirs: RunFile, ours: RunFile, method: MethodType) -> Iterator[str]:
    names = {
        _TARGETS.get(method, _LORA_TARGETS): (theirs.model.target_modules, ours.model.target_modules),
        _FEEDFORWARD: (theirs.method.feedforward_modules, ours.method.feedforward_modules),
    }
    for field, (their_names, my_names) in names.items():
        if their_names != my_names:
            yield f"its {field} are {', '.join(their_names)}, this one's {', '.join(my_names)}"


def _setting_differences(theirs: RunSettings, ours: RunFile) -> Iterator[str]:
    assert ours.settings is not None, "this release records them"
    mine = ours.settings
    pairs: dict[str, tuple[JsonValue, JsonValue]] = {
        "task": (theirs.task, mine.task),
        "labels": (", ".join(theirs.labels), ", ".join(mine.labels)),
        "training.optimizer": (theirs.optimizer, mine.optimizer),
        "training.seed": (theirs.seed, mine.seed),
        "training.globalBatchSize": (theirs.global_batch_size, mine.global_batch_size),
        **_method_pairs(theirs.method, mine.method),
    }
    for field, (their_value, my_value) in pairs.items():
        if their_value != my_value:
            yield f"its {field} is {their_value}, this one's {my_value}"


def _method_pairs(
    theirs: Mapping[str, JsonValue], mine: Mapping[str, JsonValue]
) -> dict[str, tuple[JsonValue, JsonValue]]:
    their_leaves, my_leaves = _leaves("method", _completed(theirs)), _leaves("method", _completed(mine))
    fields = sorted((their_leaves.keys() | my_leaves.keys()) - _RESOLVED_ELSEWHERE)
    return {field: (their_leaves.get(field), my_leaves.get(field)) for field in fields}


def _completed(method: Mapping[str, JsonValue]) -> JsonValue:
    # What a run's release did not know yet had this release's default.
    try:
        parsed: dict[str, JsonValue] = Method.model_validate(method, extra="ignore").model_dump(mode="json")
    except ValidationError:
        return dict(method)
    return parsed


def _leaves(path: str, value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        return {path: value}
    return {leaf: v for key, inner in value.items() for leaf, v in _leaves(f"{path}.{key}", inner).items()}
