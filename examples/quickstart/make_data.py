"""Writes the quickstart's data set: bilingual support requests, each answered by the name of its intent.

The sentences are written by hand in `phrasings/<intent>.toml`; this script fills their slots, puts openers and closers
around them and adds everyday noise. Training and held-out rows come from different sentences, so the held-out rows
measure understanding, not memory. The same seed writes the same bytes.
"""

import argparse
import json
import random
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SEED = 20260101
TRAIN_ROWS_PER_INTENT = 64

Language = (
    str  # "en", "zh" or "mixed"; a mixed sentence is Chinese with English words and takes Chinese slot values
)
SLOT = re.compile(r"\{(\w+)\}")
LATIN_WORD = re.compile(r"[a-z]{5,}")
COLLOQUIAL_ZH = {"账号": "帐号", "登录": "登陆", "怎么": "咋", "什么时候": "啥时候", "。": "", "，": " "}


@dataclass(frozen=True)
class Phrasing:
    """One hand-written sentence with slots."""

    intent: str
    language: Language
    text: str


@dataclass(frozen=True)
class Wording:
    """What may be put into a sentence and around it, in one language."""

    slots: Mapping[str, Sequence[str]]
    openers: Sequence[str]
    closers: Sequence[str]


@dataclass(frozen=True)
class Row:
    """One example: what the customer writes and the intent that answers it."""

    request: str
    intent: str


@dataclass(frozen=True)
class DataSet:
    train: Sequence[Row]
    heldout: Sequence[Row]


def build_data_set(seed: int = SEED) -> DataSet:
    """Build both splits from the phrasings beside this file."""
    rng = random.Random(seed)
    wordings = load_wordings(HERE / "slots.toml")
    train: list[Row] = []
    for phrasings in load_phrasings("train").values():
        train += spoken_rows(with_repeats(phrasings, TRAIN_ROWS_PER_INTENT, rng), wordings, rng)
    heldout: list[Row] = []
    for phrasings in load_phrasings("heldout").values():
        heldout += spoken_rows(phrasings, wordings, rng)
    rng.shuffle(train)
    rng.shuffle(heldout)
    refuse_leaks(train, heldout)
    return DataSet(train=train, heldout=heldout)


def load_phrasings(split: str) -> dict[str, list[Phrasing]]:
    """Load the sentences of one split ("train" or "heldout"), by intent."""
    by_intent: dict[str, list[Phrasing]] = {}
    for path in sorted((HERE / "phrasings").glob("*.toml")):
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        intent = document["label"]
        by_intent[intent] = [
            Phrasing(intent, language, text) for language, texts in document[split].items() for text in texts
        ]
    return by_intent


def load_wordings(path: Path) -> dict[Language, Wording]:
    """Load slot values, openers and closers for each language."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    wordings = {
        language: Wording(
            slots={**document["shared"], **document[language]},
            openers=document["openers"][language],
            closers=document["closers"][language],
        )
        for language in ("en", "zh")
    }
    return {**wordings, "mixed": wordings["zh"]}


def with_repeats(phrasings: Sequence[Phrasing], rows: int, rng: random.Random) -> list[Phrasing]:
    """Use every sentence once, and fill up with those whose slots make a second use a different sentence."""
    with_slots = [phrasing for phrasing in phrasings if SLOT.search(phrasing.text)]
    return [*phrasings, *rng.sample(with_slots, rows - len(phrasings))]


def spoken_rows(
    phrasings: Iterable[Phrasing], wordings: Mapping[Language, Wording], rng: random.Random
) -> list[Row]:
    rows = []
    for phrasing in phrasings:
        wording = wordings[phrasing.language]
        request = add_noise(
            fill_slots(surround(phrasing, wording, rng), wording, rng), phrasing.language, rng
        )
        rows.append(Row(request=request, intent=phrasing.intent))
    return rows


def surround(phrasing: Phrasing, wording: Wording, rng: random.Random) -> str:
    """Put an opener before and a closer after some of the sentences."""
    gap = " " if phrasing.language == "en" else ""
    opener = rng.choice(wording.openers) + gap if rng.random() < 0.35 else ""
    closer = gap + rng.choice(wording.closers) if rng.random() < 0.3 else ""
    ending = "" if not closer or phrasing.text[-1] in ".?!。？！" else ("." if gap else "，")
    return opener + phrasing.text + ending + closer


def fill_slots(text: str, wording: Wording, rng: random.Random) -> str:
    return SLOT.sub(lambda slot: rng.choice(wording.slots[slot[1]]), text)


def add_noise(text: str, language: Language, rng: random.Random) -> str:
    """Write some requests the way people type: no capitals, a typo, no full stop, a colloquial character."""
    if language == "en" and rng.random() < 0.12:
        text = text.lower()
    if language == "en" and rng.random() < 0.1:
        text = with_typo(text, rng)
    if language != "en" and rng.random() < 0.15:
        standard = rng.choice(list(COLLOQUIAL_ZH))
        text = text.replace(standard, COLLOQUIAL_ZH[standard])
    return text.rstrip(".。") if rng.random() < 0.15 else text


def with_typo(text: str, rng: random.Random) -> str:
    """Swap two inner letters of one longer lower-case word."""
    words = list(LATIN_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 2)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def refuse_leaks(train: Sequence[Row], heldout: Sequence[Row]) -> None:
    """Raise ValueError where a held-out row says the same as a training row."""
    entities = entity_names()
    seen = {bare_text(row.request, entities): row for row in train}
    for row in heldout:
        twin = seen.get(bare_text(row.request, entities))
        if twin is not None:
            raise ValueError(
                f"held-out row {row.request!r} repeats training row {twin.request!r}. Reword it in phrasings/."
            )


def entity_names() -> list[str]:
    """Every slot value, longest first, as it may stand in a row."""
    wordings = load_wordings(HERE / "slots.toml").values()
    names = {value.lower() for wording in wordings for values in wording.slots.values() for value in values}
    return sorted(names, key=lambda name: (-len(name), name))


def bare_text(text: str, entities: Sequence[str]) -> str:
    """Reduce a request to its wording: lower case, no entity names, digits, punctuation or white space."""
    lowered = text.lower()
    for name in entities:
        lowered = lowered.replace(name, "")
    return "".join(character for character in lowered if character.isalpha())


def as_jsonl(rows: Iterable[Row]) -> str:
    """Write rows in the Messages format, one JSON object a line."""
    return "".join(json.dumps(as_messages(row), ensure_ascii=False) + "\n" for row in rows)


def as_messages(row: Row) -> dict[str, list[dict[str, str]]]:
    return {
        "messages": [
            {"role": "user", "content": row.request},
            {"role": "assistant", "content": row.intent},
        ]
    }


def save_data_set(data_set: DataSet, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "train.jsonl").write_text(as_jsonl(data_set.train), encoding="utf-8")
    (directory / "heldout.jsonl").write_text(as_jsonl(data_set.heldout), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write train.jsonl and heldout.jsonl.")
    parser.add_argument(
        "--output", type=Path, default=HERE / "data", help="directory to write to (default: data/)"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    data_set = build_data_set(arguments.seed)
    save_data_set(data_set, arguments.output)
    print(f"{len(data_set.train)} training rows, {len(data_set.heldout)} held-out rows in {arguments.output}")


if __name__ == "__main__":
    main()
