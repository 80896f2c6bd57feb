"""Makes the quickstart's base model: a small Qwen3 with its own tokenizer, pre-trained on the text of `base_text`.

The result is a model directory like any user's (config, safetensors, tokenizer, chat template): it chats about a shop
in two languages and has never seen the fine-tuning task. Run it from the repository root:
`python -m examples.quickstart.make_base_model --output DIRECTORY`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from examples.quickstart.base_text import Document, build_documents, corpus_sentences

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# The split of Qwen's own tokenizers, so that a loader which rebuilds a Qwen tokenizer from its parts gets the same one.
QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Recipe:
    """Sizes and rates of the base model; the defaults take about a minute and a half on two CPU cores."""

    seed: int = 7
    documents: int = 24_000
    vocabulary_size: int = 4096
    hidden_size: int = 256
    layers: int = 4
    attention_heads: int = 4
    key_value_heads: int = 2
    intermediate_size: int = 640
    block_tokens: int = 128
    blocks_per_step: int = 16
    steps: int = 400
    warmup_steps: int = 20
    peak_learning_rate: float = 3e-3
    weight_decay: float = 0.05


def make_base_model(output: Path, recipe: Recipe) -> None:
    """Pre-train the base model and save it to `output` as a Hugging Face model directory."""
    documents = build_documents(recipe.documents, recipe.seed)
    tokenizer = train_tokenizer(corpus_sentences(), recipe.vocabulary_size)
    blocks = build_blocks(documents, tokenizer, recipe)
    model = build_model(tokenizer, recipe)
    pretrain(model, blocks, recipe)
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
        model_max_length=1024,
    )


def build_blocks(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> torch.Tensor:
    """Join the documents to one stream of tokens and cut it; shape (blocks, block_tokens)."""
    rendered = [render(document, tokenizer) + END_OF_TEXT for document in documents]
    stream = [token for ids in tokenizer(rendered)["input_ids"] for token in ids]
    wanted = recipe.steps * recipe.blocks_per_step
    blocks = len(stream) // recipe.block_tokens
    if blocks < wanted:
        raise ValueError(
            f"{recipe.documents} documents give {blocks} blocks, {wanted} are needed. Raise documents."
        )
    return torch.tensor(stream[: wanted * recipe.block_tokens]).view(wanted, recipe.block_tokens)


def render(document: Document, tokenizer: PreTrainedTokenizerFast) -> str:
    if not document.messages:
        return document.prose
    return str(tokenizer.apply_chat_template(list(document.messages), tokenize=False))


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
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
        pad_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def pretrain(model: Qwen3ForCausalLM, blocks: torch.Tensor, recipe: Recipe) -> None:
    """Train on every block once, with a one-cycle learning rate."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.peak_learning_rate,
        total_steps=recipe.steps,
        pct_start=recipe.warmup_steps / recipe.steps,
        cycle_momentum=False,
    )
    model.train()
    started = time.monotonic()
    for step, batch in enumerate(blocks.split(recipe.blocks_per_step), start=1):
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == recipe.steps:
            print(
                f"step {step}/{recipe.steps}  loss {loss.item():.3f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    model.eval()


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Save weights, configuration, tokenizer and chat template; greedy generation is the default."""
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[model.config.eos_token_id, model.config.pad_token_id],
        pad_token_id=model.config.pad_token_id,
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


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
