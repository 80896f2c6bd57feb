"""`run.json`: what prepare resolved about a run, read by train and export so that nothing is decided twice."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from finetune_api.base import ApiModel
from finetune_api.layout import RunLayout
from finetune_api.spec import Optimizer, Task
from finetune_trainer.storage import ObjectStore


class ModelFile(ApiModel):
    """One file of the base model as the store listed it when prepare looked."""

    name: str
    size_bytes: int
    etag: str


class BaseModelFacts(ApiModel):
    """The base model, as far as its configuration and its safetensors headers tell."""

    uri: str = Field(description="Where the files stand in the store.")
    source: str = Field(default="", description="model.source as the job names it; empty in older files.")
    revision: str | None = Field(default=None, description="The commit that a hub's model was read at.")
    digest: str = Field(description="SHA-256 over names, sizes and etags of the files.")
    files: tuple[ModelFile, ...]
    architecture: str
    model_type: str
    context_length: int | None
    vocabulary_size: int
    parameter_count: int
    weight_dtypes: tuple[str, ...]
    target_modules: tuple[str, ...] = Field(
        description="Names of the layers that get an adapter, sorted; those of `method`, read by older images."
    )
    hidden_size: int = Field(default=0, description="Width of the hidden states; 0 where no file says.")
    layer_count: int = Field(default=0, description="Number of the numbered blocks.")
    tied_embeddings: bool = Field(
        default=False, description="Whether the output head is the embedding, which the files then hold once."
    )
    largest_tensor_count: int = Field(default=0, description="Elements of the largest tensor.")

    @property
    def described(self) -> str:
        """The model as people know it: its source, at a commit where it has one."""
        source = self.source or self.uri
        return f"{source} at {self.revision}" if self.revision else source


class MethodFacts(ApiModel):
    """What the method's settings stand for in this model; names are as peft matches them."""

    target_modules: tuple[str, ...] = Field(
        default=(), description="Layers that get an adapter, sorted; `auto` is resolved here."
    )
    feedforward_modules: tuple[str, ...] = Field(
        default=(), description="IA3: those of target_modules whose input is scaled."
    )
    fully_trained_modules: tuple[str, ...] = Field(
        default=(), description="LoRA: modules that are trained whole beside the adapter, sorted."
    )
    trainable_count: int = Field(default=0, description="Number of trained parameters.")
    quantized_count: int = Field(default=0, description="QLoRA: number of weights that are quantized.")
    initial_steps: int = Field(default=0, description="AdaLoRA: steps before ranks shrink (peft's tinit).")
    final_steps: int = Field(default=0, description="AdaLoRA: steps after ranks are settled (peft's tfinal).")


class AdapterFacts(ApiModel):
    """The earlier adapter that training goes on from, as it stands in the store."""

    uri: str = Field(description="Where the files stand in the store.")
    source: str = Field(description="model.adapterSource as the job names it.")
    revision: str | None = Field(default=None, description="The commit that a hub's adapter was read at.")
    digest: str = Field(description="SHA-256 over names, sizes and etags of the files.")
    files: tuple[ModelFile, ...]

    @property
    def described(self) -> str:
        """The adapter as people know it: its source, at a commit where it has one."""
        return f"{self.source} at {self.revision}" if self.revision else self.source


class DatasetFacts(ApiModel):
    """The prepared data."""

    digest: str
    prepared_uri: str
    rows_used: int
    rows_dropped: int
    tokens: int
    learned_tokens: int
    longest_row_tokens: int
    rows_validation: int = 0
    rows_test: int = 0


class RunSettings(ApiModel):
    """What of the job decides what the weights mean and which rows a step takes: resumeFrom compares it."""

    method: dict[str, JsonValue]
    seed: int
    global_batch_size: int
    # What an older file does not say was not to be had in its release.
    task: Task = Task.CAUSAL_LM
    labels: tuple[str, ...] = ()
    optimizer: Optimizer = Optimizer.ADAM_W


class RunFile(ApiModel):
    """Everything about a run that does not change between its attempts."""

    schema_version: Literal[1] = 1
    run: str
    job_uid: str
    model: BaseModelFacts
    method: MethodFacts = MethodFacts()
    adapter: AdapterFacts | None = Field(
        default=None, description="None where training starts a new adapter."
    )
    dataset: DatasetFacts
    total_steps: Annotated[int, Field(ge=1)]
    steps_per_epoch: Annotated[int, Field(ge=1)]
    warmup_steps: Annotated[int, Field(ge=0)]
    decay_steps: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="The last steps, in which WarmupStableDecay brings the learning rate down to 0.",
    )
    evaluation_steps: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Steps between two evaluations; None where there are no validation rows."
    )
    chat_template: str = Field(
        description="The template the exported model carries: dataset.chatTemplate or the model's own."
    )
    mask_source: str = Field(description="How the learned tokens were found, as a sentence.")
    settings: RunSettings | None = Field(
        default=None, description="None in the file of a release that did not record them."
    )


def config_digest_of(run_file: RunFile) -> str:
    """SHA-256 over what a checkpoint's state means: base model, data, method, optimizer, seed, batch size.

    How long the run is and how fast it learns are left out: a run may go on for longer, or more slowly. So is what has
    its default: a later release may know more of that.
    """
    settings = run_file.settings.model_dump(mode="json", exclude_defaults=True) if run_file.settings else None
    adapter = run_file.adapter.digest if run_file.adapter else None
    meaning = [
        run_file.model.digest,
        run_file.dataset.digest,
        adapter,
        run_file.method.target_modules,
        settings,
    ]
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def save_run_file(store: ObjectStore, layout: RunLayout, run_file: RunFile) -> None:
    """Write run.json; a second attempt of prepare writes the same bytes again."""
    store.write_bytes(layout.run_file_uri, (run_file.model_dump_json(indent=2) + "\n").encode())


def load_run_file(store: ObjectStore, layout: RunLayout) -> RunFile:
    """Read run.json. Raises ObjectMissing where prepare has not finished."""
    return RunFile.model_validate_json(store.read_bytes(layout.run_file_uri))
