"""Turns text into token ids, by the model's own tokenizer files and without transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from tokenizers import Encoding, Tokenizer

from finetune_trainer.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
# In the order in which they enter the data set's digest.
TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE, CHAT_TEMPLATE_FILE)

_SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class _TokenText(BaseModel):
    """A special token as an object of its own; only its text matters here."""

    content: str


class _NamedTemplate(BaseModel):
    name: str
    template: str


class _TokenizerConfig(BaseModel):
    """What we read of tokenizer_config.json and special_tokens_map.json."""

    model_config = ConfigDict(extra="ignore")

    bos_token: str | _TokenText | None = None
    eos_token: str | _TokenText | None = None
    unk_token: str | _TokenText | None = None
    sep_token: str | _TokenText | None = None
    pad_token: str | _TokenText | None = None
    cls_token: str | _TokenText | None = None
    mask_token: str | _TokenText | None = None
    chat_template: str | list[_NamedTemplate] | None = None

    @property
    def special_tokens(self) -> dict[str, str]:
        """Texts of the special tokens that are set."""
        tokens = {name: getattr(self, name) for name in _SPECIAL_TOKENS}
        return {name: getattr(token, "content", token) for name, token in tokens.items() if token is not None}

    @property
    def default_template(self) -> str | None:
        """The chat template; of several named ones the one called default."""
        if isinstance(self.chat_template, list):
            return next((named.template for named in self.chat_template if named.name == "default"), None)
        return self.chat_template


@dataclass(frozen=True)
class ModelTokenizer:
    """The base model's tokenizer and what its files say about chats."""

    tokenizer: Tokenizer
    special_tokens: dict[str, str]
    chat_template: str | None

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def end_token(self) -> int:
        """The token that ends a text. Raises UserError where the model names none."""
        text = self.special_tokens.get("eos_token")
        token: int | None = None if text is None else self.tokenizer.token_to_id(text)
        if token is None:
            named = (
                "no eos_token" if text is None else f"the eos_token {text!r}, which {TOKENIZER_FILE} has not"
            )
            raise UserError(
                f"{TOKENIZER_CONFIG_FILE} of the model names {named}, so it would never learn where a text ends. "
                "Set eos_token there and save the tokenizer again, or bring the rows in a chat format."
            )
        return token

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Encoding]:
        """Tokenise texts. In rendered conversations the template has written the special tokens already."""
        encodings: list[Encoding] = self.tokenizer.encode_batch(
            list(texts), add_special_tokens=add_special_tokens
        )
        return encodings

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn token ids into text, special tokens included."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))


def load_tokenizer(directory: Path) -> ModelTokenizer:
    """Read the tokenizer from the model's files. Raises UserError that names the file."""
    try:
        tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    except Exception as error:  # the binding raises plain Exception
        raise UserError(
            f"{TOKENIZER_FILE} of the model cannot be read ({error}). Save the tokenizer again with save_pretrained."
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = _read_config(directory / TOKENIZER_CONFIG_FILE)
    special_tokens = {**_read_config(directory / SPECIAL_TOKENS_FILE).special_tokens, **config.special_tokens}
    template_file = directory / CHAT_TEMPLATE_FILE
    template = (
        template_file.read_text(encoding="utf-8") if template_file.is_file() else config.default_template
    )
    return ModelTokenizer(tokenizer, special_tokens, template)


def _read_config(path: Path) -> _TokenizerConfig:
    if not path.is_file():
        return _TokenizerConfig()
    try:
        return _TokenizerConfig.model_validate(_read_json(path))
    except (ValidationError, ValueError) as error:
        raise UserError(
            f"{path.name} of the model cannot be read ({error}). Save the tokenizer again."
        ) from error


def _read_json(path: Path) -> JsonValue:
    parsed: JsonValue = json.loads(path.read_text(encoding="utf-8"))
    return parsed
