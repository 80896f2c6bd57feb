"""`spec.dataset.preparation`: what is done to the rows on a CPU pod before a GPU is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import MESSAGE_KEY, UNWRITTEN, ApiModel, CelRule
from finetune_api.spec.uris import WORD_LIST_URI_PATTERN

Characters = Annotated[int, Field(ge=0, le=16_777_216)]
# What maxLength is where nobody sets it and the model's context has room for it.
DEFAULT_MAX_LENGTH = 1024


class Overlong(StrEnum):
    """What happens to a row that is longer than `maxLength`."""

    DROP = "Drop"
    TRUNCATE = "Truncate"


class InvalidRows(StrEnum):
    """What happens when a row cannot be used."""

    FAIL = "Fail"
    DROP = "Drop"


class Duplicates(StrEnum):
    """How rows that say the same are found."""

    NONE = "None"
    EXACT = "Exact"
    TFIDF = "TFIDF"
    MIN_HASH = "MinHash"


class UnicodeForm(StrEnum):
    """How characters that can be written in several ways are written."""

    NONE = "None"
    NFC = "NFC"
    NFKC = "NFKC"


class FullWidth(StrEnum):
    """What happens to the wide forms of ASCII characters."""

    KEEP = "Keep"
    NARROW = "Narrow"


class Noise(StrEnum):
    """What is no text and is taken out."""

    CONTROL_CHARACTERS = "ControlCharacters"
    HTML = "HTML"
    MARKUP = "Markup"
    SYMBOLS = "Symbols"


class Leakage(StrEnum):
    """What happens to training rows that repeat a validation or test row."""

    DROP = "Drop"
    FAIL = "Fail"
    KEEP = "Keep"


class Redaction(StrEnum):
    """What is recognised and replaced by a placeholder."""

    EMAIL = "Email"
    PHONE = "Phone"
    ID_CARD = "IDCard"
    BANK_CARD = "BankCard"
    IP_ADDRESS = "IPAddress"


class RegexAction(StrEnum):
    """What happens where an expression matches."""

    REMOVE = "Remove"
    REPLACE = "Replace"
    DROP_ROW = "DropRow"


class AugmentationMethod(StrEnum):
    """How a changed copy of a row is made."""

    SYNONYMS = "Synonyms"
    REORDER = "Reorder"


class BalanceMethod(StrEnum):
    """How classes are evened out."""

    OVERSAMPLE = "Oversample"
    DOWNSAMPLE = "Downsample"


class RegexRule(ApiModel):
    """One regular expression over the text of a row."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "has(self.replacement) == (self.action == 'Replace')",
            "regex replacement and action: Replace belong together: set both, or neither",
        ),
    )

    pattern: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="pattern is a regular expression of Python's `re`, such as `<[^>]+>`."
    )
    action: RegexAction = Field(
        default=RegexAction.REMOVE,
        description="action: Remove takes the matching text out, Replace puts replacement in its place, DropRow leaves the row out. Default: Remove.",
    )
    replacement: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="replacement for the matching text, with action Replace. Default: none."
    )


class Augmentation(ApiModel):
    """Changed copies of training rows. Only what the user says is changed, never the answer."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "('Synonyms' in self.methods) == has(self.wordList)",
            "augment.methods Synonyms and augment.wordList belong together: Synonyms takes its words from wordList; set both, or neither",
        ),
    )

    methods: Annotated[list[AugmentationMethod], Field(min_length=1, max_length=2)] = Field(
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="methods: Synonyms exchanges words for others of the same group of wordList, Reorder changes the order of sentences.",
    )
    word_list: Annotated[str, StringConstraints(pattern=WORD_LIST_URI_PATTERN, max_length=1024)] | None = (
        Field(
            default=None,
            json_schema_extra={
                MESSAGE_KEY: "augment.wordList must be configMap://name/key or s3://bucket/key, such as configMap://words/synonyms.txt"
            },
            description="wordList is a text file of words that mean the same, one group a line, separated by commas, which Synonyms needs: "
            "configMap://name/key of the job's namespace, or s3://bucket/key of output.store. Default: none.",
        )
    )
    copies: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1, description="copies that are made of each row. Default: 1."
    )
    fraction: Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=0.1, description="fraction of a copy's words that is changed. Default: 0.1."
    )


class Balance(ApiModel):
    """Evens out how often classes are seen."""

    max_ratio: Annotated[float, Field(ge=1, le=1000)] = Field(
        default=3.0,
        description="maxRatio between the largest and the smallest class, as training sees them. Default: 3.",
    )
    method: BalanceMethod = Field(
        default=BalanceMethod.OVERSAMPLE,
        description="method: Oversample shows rows of small classes more often, Downsample leaves rows of large classes out, chosen by "
        "training.seed. Default: Oversample.",
    )


def _same_max_length(block: str) -> str:
    """CEL: a maxLength of 1024 may go: it is what this definition once wrote into every object."""
    new, old = f"self{block}.maxLength", f"oldSelf{block}.maxLength"
    return f"(has({old}) ? (has({new}) ? {new} == {old} : {old} == {DEFAULT_MAX_LENGTH}) : !has({new}))"


class Preparation(ApiModel):
    """What is done to the rows on a CPU pod before training."""

    unchanged_rules: ClassVar[Mapping[str, Callable[[str], str]]] = {"max_length": _same_max_length}

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            f"!has(self.minLength) || self.minLength <= (has(self.maxLength) ? self.maxLength : {DEFAULT_MAX_LENGTH})",
            "preparation.minLength is larger than preparation.maxLength, which is at most "
            f"{DEFAULT_MAX_LENGTH} where it is not set, so no row fits: lower minLength or raise maxLength",
        ),
        CelRule(
            "!has(self.minCharacters) || !has(self.maxCharacters) || self.minCharacters <= self.maxCharacters",
            "preparation.minCharacters is larger than preparation.maxCharacters, so no row fits: lower minCharacters or raise maxCharacters",
        ),
        CelRule(
            "!has(self.maxInvalidFraction) || self.invalidRows == 'Drop'",
            "preparation.maxInvalidFraction bounds how many rows are dropped and needs invalidRows: Drop: set it, or remove maxInvalidFraction",
        ),
        CelRule(
            "!has(self.duplicateThreshold) || self.duplicates in ['TFIDF', 'MinHash']",
            "preparation.duplicateThreshold is for duplicates: TFIDF or MinHash: set one of them, or remove duplicateThreshold",
        ),
    )

    max_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = Field(
        default=None,
        description="maxLength is the longest row in tokens; it must not exceed the model's context. Default: "
        f"{DEFAULT_MAX_LENGTH}, or 80 % of the model's context where that is less.",
    )
    min_length: Annotated[int, Field(ge=0, le=1_048_576)] | None = Field(
        default=None,
        description="minLength is the shortest row in tokens; shorter ones are left out. Default: none.",
    )
    min_characters: Characters | None = Field(
        default=None,
        description="minCharacters of a row's text; shorter rows are left out before they are tokenised. Default: none.",
    )
    max_characters: Characters | None = Field(
        default=None,
        description="maxCharacters of a row's text; longer rows are left out before they are tokenised. Default: none.",
    )
    overlong: Overlong = Field(
        default=Overlong.DROP,
        description="overlong: Drop leaves longer rows out, Truncate cuts them at maxLength. Both are counted in the report. Default: Drop.",
    )
    invalid_rows: InvalidRows = Field(
        default=InvalidRows.FAIL,
        description="invalidRows: Fail ends the job where rows cannot be used, naming the first ten with source, line, column and reason; "
        "Drop leaves such rows out and counts them. Default: Fail.",
    )
    max_invalid_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1,
        json_schema_extra=UNWRITTEN,
        description="maxInvalidFraction of the rows that invalidRows: Drop may leave out; more end the job. Default: 0.1, where invalidRows is Drop.",
    )
    unicode: UnicodeForm = Field(
        default=UnicodeForm.NONE,
        description="unicode writes characters that have several forms in one: NFC puts letter and accent together, NFKC also replaces "
        "ligatures, circled digits, wide forms and the like by plain characters, None changes nothing. Default: None.",
    )
    full_width: FullWidth = Field(
        default=FullWidth.KEEP,
        description="fullWidth: Narrow writes wide letters, digits, spaces and the ASCII punctuation between them in their usual form, "
        "and leaves Chinese punctuation as it is; Keep changes nothing. Default: Keep.",
    )
    noise: Annotated[list[Noise], Field(min_length=1, max_length=4)] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="noise lists what is taken out of the text: ControlCharacters (invisible ones too), HTML (tags, comments, entities), "
        "Markup (Markdown, BBCode, wiki links); Symbols leaves out rows that are mostly symbols. Default: none.",
    )
    regex: Annotated[list[RegexRule], Field(min_length=1, max_length=32)] | None = Field(
        default=None,
        description="regex lists expressions that clean the text or leave rows out, applied in this order. Default: none.",
    )
    redact: Annotated[list[Redaction], Field(min_length=1, max_length=5)] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="redact lists what is replaced by a placeholder: Email, Phone, IDCard, BankCard, IPAddress. Default: none.",
    )
    duplicates: Duplicates = Field(
        default=Duplicates.NONE,
        description="duplicates: Exact leaves out rows whose text came before, TFIDF and MinHash also those that are nearly the same "
        "(MinHash for millions of rows), None keeps all. Default: None.",
    )
    duplicate_threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9,
        json_schema_extra=UNWRITTEN,
        description="duplicateThreshold is the similarity from which TFIDF and MinHash call two rows the same. Default: 0.9.",
    )
    leakage: Leakage = Field(
        default=Leakage.DROP,
        description="leakage: what happens to a training row that repeats a validation or test row, nearly so where duplicates is TFIDF or "
        "MinHash: Drop leaves the training row out, Fail ends the job naming the first ten, Keep only counts them in the report. Default: Drop.",
    )
    augment: Augmentation | None = Field(
        default=None, description="augment adds changed copies of the training rows. Default: none."
    )
    balance: Balance | None = Field(
        default=None, description="balance evens out the classes of Classification rows. Default: none."
    )
