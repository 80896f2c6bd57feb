"""Changed copies of training rows: words exchanged for others of a word list, sentences in another order.

Only what is asked changes: the user's turns, a prompt, the text of a classification. The answer, the system prompt,
what tools say, code and formulas, and placeholders such as [PHONE] stay as they are. A copy depends on the seed, the
row's place and the copy's number alone, so it is the same in every worker and every run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from finetune_api.spec import Augmentation, AugmentationMethod
from finetune_trainer.data.cleaning.protected_spans import hide_code_and_formulas
from finetune_trainer.data.rows import Continuation, Conversation, Example, LabelledText
from finetune_trainer.data.similarity.words import own_words

Groups = Sequence[Sequence[str]]

# A redaction's placeholder, a word of a script that is written with spaces, or one character of another.
_SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_TOKEN = re.compile(rf"\[[A-Z_]+\]|[{_SPACELESS}]|[^\W_{_SPACELESS}](?:[^\W{_SPACELESS}]|['’-](?=[^\W_]))*")
_IS_SPACELESS = re.compile(f"[{_SPACELESS}]")
# A sentence with what ends it and the white space behind it; a number's point ends none.
_SENTENCE = re.compile(
    r"""[^。！？.!?\n]*(?:[.](?=\S)[^。！？.!?\n]*)*(?:[。！？.!?]+["'”’」』）)\]]*|\n|\Z)\s*"""
)
_END_MARK = re.compile(r"""[。！？.!?]["'”’」』）)\]]*$""")


@dataclass(frozen=True, slots=True)
class Augmenter:
    """Makes the copies that `augment` asks for. Picklable."""

    methods: tuple[AugmentationMethod, ...]
    number_of_copies: int
    fraction: float
    seed: int
    synonyms: Synonyms

    @classmethod
    def build(cls, augment: Augmentation, words: Groups, seed: int) -> Augmenter:
        """Prepare the word list; `words` may be empty where the methods have no Synonyms."""
        # In the order of the enum, whatever the order in the job: a set has none.
        methods = tuple(method for method in AugmentationMethod if method in augment.methods)
        return cls(methods, augment.copies, augment.fraction, seed, Synonyms.build(words))

    def copies(self, example: Example) -> list[Example]:
        """The changed copies of an example; fewer where there is nothing to change or two would be the same."""
        made: list[Example] = []
        for number in range(self.number_of_copies):
            copy = self._copy(example, _chance(self.seed, str(example.place), number))
            if copy != example and copy not in made:
                made.append(copy)
        return made

    def _copy(self, example: Example, chance: np.random.RandomState) -> Example:
        def changed(text: str) -> str:
            hidden = hide_code_and_formulas(text)
            words = hidden.text
            for method in self.methods:
                change = self._exchanged if method is AugmentationMethod.SYNONYMS else self._reordered
                words = change(words, chance)
            return hidden.restored(words)

        return _with_questions_changed(example, changed)

    def _exchanged(self, text: str, chance: np.random.RandomState) -> str:
        return self.synonyms.exchanged(text, self.fraction, chance)

    def _reordered(self, text: str, chance: np.random.RandomState) -> str:
        return reorder_sentences(text, self.fraction, chance)


def _chance(seed: int, place: str, copy: int) -> np.random.RandomState:
    digest = blake2b(f"{seed}\0{place}\0{copy}".encode(), digest_size=16).digest()
    # RandomState, not default_rng: numpy promises never to change its streams (NEP 19).
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))


def _with_questions_changed(example: Example, change: Callable[[str], str]) -> Example:
    match example:
        case Conversation():
            messages = tuple(
                replace(each, content=_changed_question(each.content, example.label, change))
                if each.role == "user"
                else each
                for each in example.messages
            )
            return replace(example, messages=messages)
        case Continuation():
            return replace(example, given=change(example.given))
        case LabelledText():
            return replace(example, text=change(example.text))


def _changed_question(question: str, label: str | None, change: Callable[[str], str]) -> str:
    if label is None:
        return change(question)
    # The instruction before the text names the labels; these words are fixed.
    text = own_words(question)
    return question[: len(question) - len(text)] + change(text)


# --- synonyms --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Synonyms:
    """Words and the others of their groups, and how many tokens the longest entry has that begins with a token."""

    others: Mapping[tuple[str, ...], tuple[str, ...]]
    longest: Mapping[str, int]

    @classmethod
    def build(cls, groups: Groups) -> Synonyms:
        """Index the groups; a word of several groups has the words of all of them."""
        others: dict[tuple[str, ...], tuple[str, ...]] = {}
        longest: dict[str, int] = {}
        for group in groups:
            for word in group:
                tokens = tuple(_TOKEN.findall(word.lower()))
                if not tokens:
                    continue
                same = tuple(each for each in group if each.lower() != word.lower())
                others[tokens] = tuple(dict.fromkeys([*others.get(tokens, ()), *same]))
                longest[tokens[0]] = max(longest.get(tokens[0], 0), len(tokens))
        return cls(others, longest)

    def exchanged(self, text: str, fraction: float, chance: np.random.RandomState) -> str:
        """The text with about `fraction` of its words exchanged, at least one where it has one of the list.

        A Chinese character counts as a word. The first letter's case, or that of all, is kept.
        """
        tokens = list(_TOKEN.finditer(text))
        found = list(self._entries(text, tokens))
        if not found:
            return text
        wanted = min(len(found), max(1, round(fraction * len(tokens))))
        chosen = sorted(chance.permutation(len(found))[:wanted].tolist())
        pieces, end = [], 0
        for start, stop, others in (found[each] for each in chosen):
            new = others[int(chance.randint(len(others)))]
            pieces += [text[end:start], _in_case_of(text[start:stop], new)]
            end = stop
        return "".join([*pieces, text[end:]])

    def _entries(
        self, text: str, tokens: Sequence[re.Match[str]]
    ) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """The words of the list in the text, the longest at each place, from left to right."""
        at = 0
        while at < len(tokens):
            length = self._longest_at(text, tokens, at)
            if length:
                last = tokens[at + length - 1]
                words = tuple(token[0].lower() for token in tokens[at : at + length])
                yield tokens[at].start(), last.end(), self.others[words]
            at += max(1, length)

    def _longest_at(self, text: str, tokens: Sequence[re.Match[str]], at: int) -> int:
        most = min(self.longest.get(tokens[at][0].lower(), 0), len(tokens) - at)
        for length in range(most, 0, -1):
            words = tokens[at : at + length]
            if tuple(token[0].lower() for token in words) in self.others and _stand_together(text, words):
                return length
        return 0


def _stand_together(text: str, words: Sequence[re.Match[str]]) -> bool:
    """Words of one entry have one space between them, characters of spaceless scripts nothing."""
    for left, right in pairwise(words):
        is_spaceless = _IS_SPACELESS.fullmatch(left[0]) or _IS_SPACELESS.fullmatch(right[0])
        if text[left.end() : right.start()] != ("" if is_spaceless else " "):
            return False
    return True


def _in_case_of(old: str, new: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


# --- order -----------------------------------------------------------------------------------------------------


def reorder_sentences(text: str, fraction: float, chance: np.random.RandomState) -> str:
    """The text with about `fraction` of its sentences, at least one, moved to another place.

    Sentences end at 。！？.!? and at line ends. What separates them stays where it is. One without an end mark moves
    only among lines: between other sentences it would run into the next one.
    """
    sentences = [match[0] for match in _SENTENCE.finditer(text) if match[0]]
    words = [sentence.rstrip() for sentence in sentences]
    gaps = [sentence[len(word) :] for sentence, word in zip(sentences, words, strict=True)]
    are_lines = all("\n" in gap for gap in gaps[:-1])
    places = [at for at, word in enumerate(words) if word and (are_lines or _END_MARK.search(word))]
    if len(places) < 2:
        return text
    moved = [words[at] for at in places]
    for _ in range(max(1, round(fraction * len(moved)))):
        origin = int(chance.randint(len(moved)))
        target = int(chance.randint(len(moved) - 1))
        moved.insert(target + (target >= origin), moved.pop(origin))
    for at, word in zip(places, moved, strict=True):
        words[at] = word
    return "".join(word + gap for word, gap in zip(words, gaps, strict=True))
