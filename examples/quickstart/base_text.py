"""Composes the text that the quickstart's base model is pre-trained on: bilingual chats and prose about a shop.

The parts are written by hand in `base_corpus/`. Nothing here knows the intents of the fine-tuning data: the base model
learns the two languages, the turns of a chat and what belongs together, and answers customers in sentences.
"""

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from examples.quickstart.make_data import Wording, fill_slots, load_wordings

HERE = Path(__file__).parent
CORPUS = HERE / "base_corpus"

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
Message = dict[str, str]


@dataclass(frozen=True)
class Document:
    """One piece of text: a chat, or prose when it has no messages."""

    messages: Sequence[Message] = ()
    prose: str = ""


@dataclass(frozen=True)
class Topic:
    """What a shop's customers and its staff say about one subject."""

    title: Mapping[str, str]
    words: Sequence[tuple[str, str]]  # (English, Chinese)
    sentences: Mapping[
        str, Mapping[str, Sequence[str]]
    ]  # language → actions, problems, replies, facts → texts


@dataclass(frozen=True)
class Corpus:
    topics: Sequence[Topic]
    frames: Mapping[str, Mapping[str, Sequence[str]]]
    small_talk: Sequence[tuple[str, str]]
    wordings: Mapping[str, Wording]


def build_documents(count: int, seed: int) -> list[Document]:
    """Compose `count` documents; the same seed composes the same ones."""
    rng = random.Random(seed)
    corpus = load_corpus()
    return [write(corpus, rng) for write in rng.choices(WRITERS, weights=SHARES, k=count)]


def corpus_sentences() -> list[str]:
    """Every hand-written sentence of the corpus, once."""
    corpus = load_corpus()
    notes = corpus.frames["notes"]
    lists: list[Sequence[str]] = [notes["fields"], notes["values"], ["user\n", "assistant\n"]]
    lists += [texts for language in LANGUAGES for texts in corpus.frames[language].values()]
    lists += [texts for wording in corpus.wordings.values() for texts in wording.slots.values()]
    lists += corpus.small_talk
    for topic in corpus.topics:
        lists += [list(topic.title.values()), *topic.words]
        lists += [texts for language in LANGUAGES for texts in topic.sentences[language].values()]
    return sorted({text for texts in lists for text in texts})


def load_corpus() -> Corpus:
    frames = load_toml(CORPUS / "frames.toml")
    return Corpus(
        topics=[load_topic(path) for path in sorted((CORPUS / "topics").glob("*.toml"))],
        frames=frames,
        small_talk=[(said, answered) for said, answered in load_toml(CORPUS / "small_talk.toml")["pairs"]],
        wordings=load_wordings(HERE / "slots.toml"),
    )


def load_topic(path: Path) -> Topic:
    document = load_toml(path)
    return Topic(
        title=document["title"],
        words=[(english, chinese) for english, chinese in document["words"]],
        sentences={language: document[language] for language in LANGUAGES},
    )


def load_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def support_chat(corpus: Corpus, rng: random.Random) -> Document:
    """A customer asks or complains and the shop answers; sometimes there is a second exchange on the subject."""
    topic, language = rng.choice(corpus.topics), rng.choice(LANGUAGES)
    messages: list[Message] = []
    for _ in range(rng.choice((1, 1, 2))):
        reply = rng.choice(topic.sentences[language]["replies"])
        messages += exchange(customer_text(corpus, topic, language, rng), reply)
    return Document(messages=messages)


def customer_text(corpus: Corpus, topic: Topic, language: Language, rng: random.Random) -> str:
    """What a customer writes: full sentences or, now and then, a few words; with or without a greeting."""
    frames = corpus.frames[language]
    parts = (
        subject_words(frames, topic, rng)
        if rng.random() < 0.3
        else wish_or_complaint(frames, topic, language, rng)
    )
    if rng.random() < 0.35:
        courtesy = rng.choice(frames["courtesies"])
        parts = [courtesy, *parts] if courtesy[-1] in ",，" else [*parts, courtesy]
    text = fill_slots((" " if language == "en" else "").join(parts), corpus.wordings[language], rng)
    return text.lower() if rng.random() < 0.1 else text


def wish_or_complaint(
    frames: Mapping[str, Sequence[str]], topic: Topic, language: Language, rng: random.Random
) -> list[str]:
    sentences = topic.sentences[language]
    wish = rng.choice(frames["wishes"]).replace("{action}", rng.choice(sentences["actions"]))
    complaint = rng.choice(frames["complaints"]).replace("{problem}", rng.choice(sentences["problems"]))
    return rng.choice(([wish], [complaint], [wish], [complaint], [complaint, wish]))


def subject_words(frames: Mapping[str, Sequence[str]], topic: Topic, rng: random.Random) -> list[str]:
    """A bare subject; its words may be of the other language, as in the chats of bilingual customers."""
    text = rng.choice(frames["subjects"])
    while "{word}" in text:
        text = text.replace("{word}", rng.choice(rng.choice(topic.words)), 1)
    return [text]


def article(corpus: Corpus, rng: random.Random) -> Document:
    """A page of the shop's help: some facts and an answer under a title."""
    topic, language = rng.choice(corpus.topics), rng.choice(LANGUAGES)
    sentences = topic.sentences[language]
    body = rng.sample(sentences["facts"], 2) + rng.sample(sentences["replies"], 1)
    rng.shuffle(body)
    return Document(prose=topic.title[language] + "\n" + (" " if language == "en" else "").join(body))


def glossary(corpus: Corpus, rng: random.Random) -> Document:
    """The two languages side by side: a list of words, or somebody who asks for one of them."""
    topic = rng.choice(corpus.topics)
    if rng.random() < 0.5:
        pairs = rng.sample(topic.words, 6)
        return Document(prose="\n".join(f"{english} = {chinese}" for english, chinese in pairs))
    english, chinese = rng.choice(topic.words)
    question, answer = rng.choice(
        (
            (f"What is {chinese} in English?", english),
            (f"“{chinese}”用英语怎么说？", english),
            (f"How do you say {english} in Chinese?", chinese),
            (f"“{english}”是什么意思？", chinese),
        )
    )
    return Document(messages=exchange(question, answer))


def record(corpus: Corpus, rng: random.Random) -> Document:
    """An entry of the shop's records: fields with values."""
    notes = corpus.frames["notes"]
    lines = [f"{field}: {rng.choice(notes['values'])}" for field in rng.sample(notes["fields"], 3)]
    return Document(prose="\n".join(lines))


def small_talk(corpus: Corpus, rng: random.Random) -> Document:
    messages: list[Message] = []
    for said, answered in rng.sample(corpus.small_talk, rng.choice((1, 2, 3))):
        messages += exchange(said, answered)
    return Document(messages=messages)


def exchange(said: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]


WRITERS = (support_chat, article, glossary, record, small_talk)
SHARES = (12, 2, 3, 1, 2)
