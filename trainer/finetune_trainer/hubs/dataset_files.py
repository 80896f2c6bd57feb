"""Chooses the files of a hub's data set: one configuration, one split, as README.md or the files' names say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from finetune_trainer.data.files.file_names import READABLE_NAMES, choose_data_files, shortened
from finetune_trainer.errors import UserError
from finetune_trainer.hubs.address import Hub, RepositoryAddress
from finetune_trainer.hubs.dataset_card import DEFAULT_CONFIGURATION, DEFAULT_SPLIT, Configuration
from finetune_trainer.hubs.dataset_splits import converted_files, matching, splits_by_name

CONVERTED_BRANCH = "refs/convert/parquet"


@dataclass(frozen=True)
class Wanted:
    """What of a data set the job asks for."""

    address: RepositoryAddress
    configuration: str | None = None
    split: str | None = None

    @property
    def split_name(self) -> str:
        """The split, or the one that is meant where none is named."""
        return self.split or DEFAULT_SPLIT


@dataclass(frozen=True)
class ChosenFiles:
    """The files, sorted, and by what they were told."""

    names: tuple[str, ...]
    explanation: str


def choose_dataset_files(
    wanted: Wanted, names: Iterable[str], configurations: Sequence[Configuration]
) -> ChosenFiles:
    """Choose the files. Raises UserError that lists the configurations or splits there are."""
    listed = sorted(names)
    readable = choose_data_files(listed).chosen
    if not readable:
        raise UserError(_nothing_readable(wanted, listed))
    if configurations:
        return _by_card(wanted, _chosen(wanted, configurations), listed, readable)
    if converted := converted_files(readable):
        return _of_converted(wanted, converted)
    return _by_names(wanted, readable)


# --- as README.md says -----------------------------------------------------------------------------------------


def _chosen(wanted: Wanted, configurations: Sequence[Configuration]) -> Configuration:
    by_name = {each.name: each for each in configurations}
    if wanted.configuration is not None:
        if wanted.configuration not in by_name:
            raise UserError(_no_configuration(wanted, by_name))
        return by_name[wanted.configuration]
    if len(by_name) == 1:
        return configurations[0]
    default = next((each for each in configurations if each.is_default), by_name.get(DEFAULT_CONFIGURATION))
    if default is None:
        raise UserError(_which_configuration(wanted, by_name))
    return default


def _by_card(
    wanted: Wanted, configuration: Configuration, listed: Sequence[str], readable: Sequence[str]
) -> ChosenFiles:
    explanation = f"configuration {configuration.name} of its README.md"
    if configuration.patterns is None:
        below = matching(["**"], readable, configuration.folder)
        return _of_split(wanted, splits_by_name(below), explanation)
    patterns = configuration.patterns.get(wanted.split_name)
    if patterns is None:
        raise UserError(_no_split(wanted, configuration.patterns))
    found = matching(patterns, listed, configuration.folder)
    chosen = choose_data_files(found).chosen
    if not chosen:
        has = f"matches {shortened(found)}, which is not read" if found else "matches no file of it"
        raise UserError(
            f"README.md of {wanted.address.uri} gives {', '.join(patterns)} for split {wanted.split_name}, which "
            f"{has}. Only files of the repository itself are read, {READABLE_NAMES}. Set another split, or another "
            "data set."
        )
    return ChosenFiles(chosen, explanation)


# --- as the names say ------------------------------------------------------------------------------------------


def _of_converted(wanted: Wanted, converted: Mapping[str, Mapping[str, list[str]]]) -> ChosenFiles:
    name = wanted.configuration or (next(iter(converted)) if len(converted) == 1 else DEFAULT_CONFIGURATION)
    if name not in converted:
        sentence = _no_configuration if wanted.configuration else _which_configuration
        raise UserError(sentence(wanted, converted))
    return _of_split(wanted, converted[name], f"configuration {name} of the branch with Parquet files")


def _by_names(wanted: Wanted, readable: Sequence[str]) -> ChosenFiles:
    if wanted.configuration is None or wanted.configuration == DEFAULT_CONFIGURATION:
        return _of_split(wanted, splits_by_name(readable), "the names of its files")
    below = [name for name in readable if name.startswith(f"{wanted.configuration}/")]
    if not below:
        folders = {name.partition("/")[0] for name in readable if "/" in name}
        raise UserError(_no_configuration(wanted, sorted(folders)))
    inner = splits_by_name([name.removeprefix(f"{wanted.configuration}/") for name in below])
    splits = {split: [f"{wanted.configuration}/{name}" for name in found] for split, found in inner.items()}
    return _of_split(wanted, splits, f"the names of the files in its folder {wanted.configuration}")


def _of_split(wanted: Wanted, splits: Mapping[str, Sequence[str]], explanation: str) -> ChosenFiles:
    if not splits.get(wanted.split_name):
        raise UserError(_no_split(wanted, splits))
    return ChosenFiles(tuple(sorted(splits[wanted.split_name])), explanation)


# --- sentences -------------------------------------------------------------------------------------------------


def _no_configuration(wanted: Wanted, present: Iterable[str]) -> str:
    has = shortened(present) or "none"
    return (
        f"{wanted.address.uri} has no subset '{wanted.configuration}'. It has {has}. Set "
        f"{wanted.address.place}.subset to one of these, or remove it."
    )


def _which_configuration(wanted: Wanted, present: Iterable[str]) -> str:
    return (
        f"{wanted.address.uri} has several subsets, none of them the default: {shortened(present)}. Set "
        f"{wanted.address.place}.subset to one of these."
    )


def _no_split(wanted: Wanted, present: Iterable[str]) -> str:
    meant = f"split '{wanted.split_name}'" + ("" if wanted.split else ", which is read where none is named")
    return (
        f"{wanted.address.uri} has no {meant}. It has {shortened(present)}. Set {wanted.address.place}.split to one "
        "of these."
    )


def _nothing_readable(wanted: Wanted, listed: Sequence[str]) -> str:
    uri, place = wanted.address.uri, wanted.address.place
    script = next((name for name in listed if name.endswith(".py") and "/" not in name), None)
    if script is not None:
        branch = f"Set {place}.revision to {CONVERTED_BRANCH}, where the hub keeps most of these as Parquet, or convert"
        action = branch if wanted.address.hub is Hub.HUGGING_FACE else "Convert"
        return f"{uri} makes its rows by a script ({script}), which is never run. {action} it to files and name these."
    others = [name for name in listed if not PurePosixPath(name).name.startswith(".")]
    return (
        f"{uri} has no file that is read (it has {shortened(others) or 'no files'}). Name a data set with "
        f"{READABLE_NAMES}, or set {place}.revision."
    )
