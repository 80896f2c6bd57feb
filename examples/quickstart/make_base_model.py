"""Makes the quickstart's base model: a small Qwen3 with its own tokenizer, pre-trained on the text of `base_text`.

The result is a model directory like any user's (config, safetensors, tokenizer, chat template): it chats about a shop
in two languages and has never seen the fine-tuning task. Run it from the repository root:
`python -m examples.quickstart.make_base_model --output DIRECTORY`.
"""

import argparse
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from examples.quickstart.base_text import Document, build_documents, corpus_sentences
from examples.quickstart.muon import Muon

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MAX_TOKENS = 1024
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# The split of Qwen's own tokenizers, so that a loader which rebuilds a Qwen tokenizer from its parts gets the same one.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Recipe:
    """Sizes and rates of the base model; the defaults take about a minute and a half on two CPU cores."""

    seed: int = 7
    vocabulary_size: int = 4096  # at most; the hand-written text fills about 3000
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 3
    attention_heads: int = 4
    key_value_heads: int = 2
    steps: int = 720
    documents_per_step: int = 24
    warmup_steps: int = 20
    matrix_learning_rate: float = 0.02
    other_learning_rate: float = 5e-3
    # What a reply says about the question is the only part that teaches meaning: it counts most, the question least.
    prose_weight: float = 1.0
    reply_weight: float = 3.0
    question_weight: float = 0.4


@dataclass(frozen=True)
class TokenizedDocument:
    """Token ids, and how much each of them counts in the loss."""

    ids: Sequence[int]
    weights: Sequence[float]


@dataclass(frozen=True)
class Batch:
    """Documents padded to one length, shape (documents, tokens); padding weighs nothing."""

    ids: torch.Tensor
    weights: torch.Tensor


def make_base_model(output: Path, recipe: Recipe) -> None:
    """Pre-train the base model and save it to `output` as a Hugging Face model directory.

    Raises FileExistsError if there is an `output` already.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists already. Remove it or name another directory.")
    tokenizer = train_tokenizer(corpus_sentences(), recipe.vocabulary_size)
    documents = build_documents(recipe.steps * recipe.documents_per_step, recipe.seed)
    tokenized = [tokenize(document, tokenizer, recipe) for document in documents]
    model = build_model(tokenizer, recipe)
    pretrain(model, build_batches(tokenized, tokenizer.pad_token_id, recipe), recipe)
    save_model(model, tokenizer, output)


def train_tokenizer(sentences: Sequence[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with Qwen's split, special tokens and ChatML template.

    It learns from each sentence once: counted as often as the documents repeat them, whole Chinese clauses, which have
    no spaces, would become single tokens and nothing new could be read.
    """
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 3,
        min_frequency=2,
        max_token_length=15,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    backend.add_special_tokens([END_OF_TEXT, TURN_START, TURN_END])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START, TURN_END],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TOKENS,
    )


def tokenize(document: Document, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> TokenizedDocument:
    """Turn a document into tokens as the chat template writes it, closed by the end-of-text token."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in weighted_parts(document, recipe):
        part = tokenizer(text)["input_ids"]
        ids += part
        weights += [weight] * len(part)
    return TokenizedDocument(ids, weights)


def weighted_parts(document: Document, recipe: Recipe) -> Iterator[tuple[str, float]]:
    """Split a document where the weight of its text changes; joined, the parts are the rendered document."""
    if document.prose:
        yield document.prose + END_OF_TEXT, recipe.prose_weight
        return
    for message in document.messages:
        weight = recipe.reply_weight if message["role"] == "assistant" else recipe.question_weight
        yield f"{TURN_START}{message['role']}\n", recipe.question_weight
        yield message["content"] + TURN_END, weight
        yield "\n", recipe.question_weight
    yield END_OF_TEXT, recipe.question_weight


def build_batches(
    documents: Sequence[TokenizedDocument], pad_token_id: int, recipe: Recipe
) -> Iterator[Batch]:
    """Batch documents of similar length, so that little is padding, in an order that length does not show."""
    rng = random.Random(recipe.seed)
    size = recipe.documents_per_step
    window = 16 * size
    for start in range(0, len(documents), window):
        by_length = sorted(documents[start : start + window], key=lambda document: len(document.ids))
        batches = [by_length[at : at + size] for at in range(0, len(by_length), size)]
        rng.shuffle(batches)
        for batch in batches:
            yield pad(batch, pad_token_id)


def pad(documents: Sequence[TokenizedDocument], pad_token_id: int) -> Batch:
    longest = max(len(document.ids) for document in documents)
    return Batch(
        ids=torch.tensor([[*d.ids, *[pad_token_id] * (longest - len(d.ids))] for d in documents]),
        weights=torch.tensor([[*d.weights, *[0.0] * (longest - len(d.ids))] for d in documents]),
    )


def build_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Qwen3ForCausalLM:
    """Build an untrained Qwen3 of the recipe's size."""
    torch.manual_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.attention_heads,
        num_key_value_heads=recipe.key_value_heads,
        head_dim=recipe.hidden_size // recipe.attention_heads,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
        pad_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def pretrain(model: Qwen3ForCausalLM, batches: Iterator[Batch], recipe: Recipe) -> None:
    """Train on every batch once: warm-up, a constant rate, then a linear decay over the second half."""
    optimizers = build_optimizers(model, recipe)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, recipe))
        for optimizer in optimizers
    ]
    model.train()
    started = time.monotonic()
    for step, batch in enumerate(batches, start=1):
        loss = weighted_loss(model, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        if step % 50 == 0 or step == recipe.steps:
            seconds = time.monotonic() - started
            print(f"step {step}/{recipe.steps}  loss {loss.item():.3f}  {seconds:.0f} s", flush=True)
    model.eval()


def build_optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Build Muon for the layers' matrices, AdamW for embeddings and norms.

    With AdamW alone the model needs about twice the steps before it hears what a question is about.
    """
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.model.layers.parameters() if parameter.ndim != 2]
    others += [*model.model.embed_tokens.parameters(), *model.model.norm.parameters()]
    return [
        Muon(matrices, lr=recipe.matrix_learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.other_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    decay = min(1.0, 2 * (recipe.steps - step) / recipe.steps)
    return warm * decay


def weighted_loss(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Compute the next-token loss, averaged with the weights of the tokens to predict."""
    logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Save weights, configuration, tokenizer and chat template; greedy generation is the default.

    The directory gets its name last, so that an interrupted run leaves no half of a model under it.
    """
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[model.config.eos_token_id, model.config.pad_token_id],
        pad_token_id=model.config.pad_token_id,
    )
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(output)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train the quickstart's base model.")
    parser.add_argument("--output", type=Path, required=True, help="directory to write the model to")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    make_base_model(arguments.output, Recipe(seed=arguments.seed))
    print(f"base model in {arguments.output} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
