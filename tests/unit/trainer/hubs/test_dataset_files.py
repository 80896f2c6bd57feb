"""Which files of a hub's data set are read: README.md's configurations, names of files and folders, splits."""

from __future__ import annotations

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.hubs import Hub, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.dataset_card import Configuration, read_configurations
from finetune_trainer.hubs.dataset_files import Wanted, choose_dataset_files
from finetune_trainer.hubs.dataset_splits import matching


def make_wanted(
    configuration: str | None = None, split: str | None = None, hub: Hub = Hub.HUGGING_FACE
) -> Wanted:
    """What a job asks for."""
    address = RepositoryAddress(hub, RepositoryKind.DATASET, "org/rows", place="dataset.train[0]")
    return Wanted(address, configuration, split)


def make_card(head: str) -> str:
    """A README.md."""
    return f"---\nlicense: mit\n{head}\n---\n# Rows\n---\nconfigs: none\n"


CARDS: dict[str, tuple[str, tuple[Configuration, ...]]] = {
    "no head": ("# Rows", ()),
    "no configurations": (make_card("tags: [a]"), ()),
    "a pattern": (
        make_card("configs:\n- config_name: default\n  data_files: 'data/*.jsonl'"),
        (Configuration("default", {"train": ("data/*.jsonl",)}),),
    ),
    "a list of patterns": (
        make_card("configs:\n- config_name: a\n  data_files: [x.csv, ./y.csv]"),
        (Configuration("a", {"train": ("x.csv", "y.csv")}),),
    ),
    "patterns by split": (
        make_card(
            "configs:\n- config_name: zh\n  default: true\n  data_files:\n"
            "  - split: train\n    path: zh/train-*\n  - split: test\n    path: [zh/a.parquet, zh/b.parquet]"
        ),
        (
            Configuration(
                "zh", {"train": ("zh/train-*",), "test": ("zh/a.parquet", "zh/b.parquet")}, "", True
            ),
        ),
    ),
    "patterns by split, as a map": (
        make_card("configs:\n- config_name: a\n  data_files: {train: t.json, test: [e.json]}"),
        (Configuration("a", {"train": ("t.json",), "test": ("e.json",)}),),
    ),
    "a folder": (
        make_card("configs:\n- config_name: main\n  data_dir: main/"),
        (Configuration("main", None, "main"),),
    ),
    "with a byte order mark": (
        "\ufeff" + make_card("configs:\n- config_name: a\n  data_files: a.csv"),
        (Configuration("a", {"train": ("a.csv",)}),),
    ),
    "a head without an end": ("---\nconfigs:\n- config_name: a", ()),
    "broken YAML": (make_card("configs: [a: b: c"), ()),
    "YAML that builds objects": (make_card("configs: !!python/object/apply:os.system [id]"), ()),
    "configurations that are none": (make_card("configs: 5"), ()),
    "files that are none": (make_card("configs:\n- config_name: a\n  data_files: [1, 2]"), ()),
}


@pytest.mark.parametrize("case", CARDS)
def test_a_card_is_read(case: str) -> None:
    card, expected = CARDS[case]
    assert read_configurations(card, "hf://org/rows") == expected


@pytest.mark.parametrize(
    ("pattern", "folder", "expected"),
    [
        ("data/*.csv", "", ["data/a.csv"]),
        ("**/*.csv", "", ["b.csv", "data/a.csv", "data/deep/c.csv"]),
        ("**", "data", ["data/a.csv", "data/deep/c.csv", "data/train-00000-of-00001.parquet"]),
        ("*.csv", "data", ["data/a.csv"]),
        ("data/deep", "", ["data/deep/c.csv"]),
        ("data/train-*", "", ["data/train-00000-of-00001.parquet"]),
        ("data/train-[0-9]*-of-?????.parquet", "", ["data/train-00000-of-00001.parquet"]),
        ("[!b]*.csv", "", []),
        ("b.csv", "", ["b.csv"]),
        ("bxcsv", "", []),
    ],
)
def test_patterns_match_as_on_the_hub(pattern: str, folder: str, expected: list[str]) -> None:
    names = ["b.csv", "data/a.csv", "data/deep/c.csv", "data/train-00000-of-00001.parquet"]
    assert matching([pattern], names, folder) == expected


SHARDS = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
CONVERTED = [
    "zh/train/0000.parquet",
    "zh/train/0001.parquet",
    "zh/test/0000.parquet",
    "en/partial-train/0000.parquet",
]
CARD = (
    Configuration("zh", {"train": ("zh/*.jsonl",), "test": ("zh-test.jsonl",)}),
    Configuration("en", {"train_sft": ("en/**",)}, "", is_default=True),
    Configuration("elsewhere", {"train": ("https://example.com/rows.jsonl",)}),
    Configuration("archive", {"train": ("rows.zip",)}),
    Configuration("folder", None, "folder"),
)
CARD_FILES = [
    "README.md",
    "en/a.jsonl",
    "en/b/c.jsonl",
    "folder/train.csv",
    "rows.zip",
    "zh/1.jsonl",
    "zh-test.jsonl",
]

CHOICES: dict[str, tuple[Wanted, list[str], tuple[Configuration, ...], list[str]]] = {
    "shards of the training split": (make_wanted(), ["README.md", *SHARDS, "data/test-00000-of-00001.parquet"], (), SHARDS),
    "shards of a split of any name": (
        make_wanted(split="train_sft"), [*SHARDS, "data/train_sft-00000-of-00001-abc.parquet"], (),
        ["data/train_sft-00000-of-00001-abc.parquet"],
    ),
    "all, where nothing names splits": (make_wanted(), ["b.jsonl", "a.jsonl.gz", "LICENSE"], (), ["a.jsonl.gz", "b.jsonl"]),
    "not what validates and tests": (make_wanted(), ["train.csv", "dev.csv", "test.csv"], (), ["train.csv"]),
    "a file by its name": (make_wanted(split="validation"), ["train.csv", "my-dev-1.csv"], (), ["my-dev-1.csv"]),
    "a folder by its name": (make_wanted(split="test"), ["test/x.json", "train/y.json"], (), ["test/x.json"]),
    "a subset that is a folder": (make_wanted("zh"), ["zh/train.csv", "zh/test.csv", "en/train.csv"], (), ["zh/train.csv"]),
    "a subset of the Parquet branch": (make_wanted("zh"), CONVERTED, (), CONVERTED[:2]),
    "a split of the Parquet branch": (make_wanted("zh", "test"), CONVERTED, (), CONVERTED[2:3]),
    "what the hub converted in part": (make_wanted("en"), CONVERTED, (), CONVERTED[3:]),
    "the only subset of the Parquet branch": (make_wanted(), ["default/train/0000.parquet"], (), ["default/train/0000.parquet"]),
    "a configuration of the card": (make_wanted("zh"), CARD_FILES, CARD, ["zh/1.jsonl"]),
    "a split of the card": (make_wanted("zh", "test"), CARD_FILES, CARD, ["zh-test.jsonl"]),
    "the card's default": (make_wanted(split="train_sft"), CARD_FILES, CARD, ["en/a.jsonl", "en/b/c.jsonl"]),
    "a folder of the card": (make_wanted("folder"), CARD_FILES, CARD, ["folder/train.csv"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_files_are_chosen(case: str) -> None:
    wanted, names, configurations, expected = CHOICES[case]
    assert list(choose_dataset_files(wanted, names, configurations).names) == expected


REFUSALS: dict[str, tuple[Wanted, list[str], tuple[Configuration, ...], str]] = {
    "a split that is not there": (
        make_wanted(split="dev"),
        SHARDS,
        (),
        r"hf://org/rows has no split 'dev'\. It has train\. Set dataset\.train\[0\]\.split to one of these",
    ),
    "no training split": (
        make_wanted(),
        ["test.csv", "dev.csv"],
        (),
        r"has no split 'train', which is read where none is named\. It has validation, test",
    ),
    "a subset that is not there": (
        make_wanted("fr"),
        ["zh/train.csv", "en/train.csv"],
        (),
        r"has no subset 'fr'\. It has en, zh\. Set dataset\.train\[0\]\.subset",
    ),
    "a subset that the card does not have": (
        make_wanted("fr"),
        CARD_FILES,
        CARD,
        r"has no subset 'fr'\. It has zh, en, elsewhere, archive, folder",
    ),
    "several subsets and no default": (
        make_wanted(),
        CARD_FILES,
        (CARD[0], CARD[4]),
        "has several subsets, none of them the default: zh, folder",
    ),
    "several subsets of the Parquet branch": (
        make_wanted(),
        CONVERTED,
        (),
        "has several subsets, none of them the default: en, zh",
    ),
    "a split that the card does not have": (
        make_wanted("zh", "dev"),
        CARD_FILES,
        CARD,
        r"has no split 'dev'\. It has train, test",
    ),
    "files elsewhere": (
        make_wanted("elsewhere"),
        CARD_FILES,
        CARD,
        r"gives https://example\.com/rows\.jsonl for split train, which matches no file of it\. Only files of the",
    ),
    "files that are not read": (
        make_wanted("archive"),
        CARD_FILES,
        CARD,
        r"gives rows\.zip for split train, which matches rows\.zip, which is not read",
    ),
    "a script": (
        make_wanted(),
        ["README.md", "rows.py", "rows.zip"],
        (),
        r"makes its rows by a script \(rows\.py\), which is never run\. Set dataset\.train\[0\]\.revision to "
        r"refs/convert/parquet, where the hub keeps most of these as Parquet",
    ),
    "a script on ModelScope": (
        make_wanted(hub=Hub.MODEL_SCOPE),
        ["rows.py"],
        (),
        r"by a script \(rows\.py\), which is never run\. Convert it to files and name these",
    ),
    "images": (
        make_wanted(),
        [".gitattributes", "a.png", "b.png"],
        (),
        r"has no file that is read \(it has a\.png, b\.png\)\. Name a data set with \.jsonl, \.json",
    ),
    "nothing at all": (
        make_wanted(),
        [".gitattributes"],
        (),
        r"has no file that is read \(it has no files\)",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_chosen_is_refused_with_what_there_is(case: str) -> None:
    wanted, names, configurations, sentence = REFUSALS[case]
    with pytest.raises(UserError, match=sentence):
        choose_dataset_files(wanted, names, configurations)
