"""What a chat template puts around a turn, found by rendering made-up conversations once.

The masks are cut by it: what stands before an answer is given to the model, the answer and the end of its turn are
learned, what follows is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.data.chat_template import ChatTemplate, TemplateRefusal
from finetune_trainer.data.rows import JsonObject, Message, ToolCall
from finetune_trainer.data.template_environment import Span

# Any words will do that no template contains.
_QUESTION, _ANSWER, _RESULT = "finetuneprobeq", "finetuneprobea", "finetuneprober"
_CALL, _TOOL, _THOUGHT = "finetuneprobec", "finetuneprobet", "finetuneprobeh"
_FIRST_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class TurnShape:
    """The texts around an answer.

    `headers` stand before one and are given, the longest first. `end_of_turn` is the first word behind one; `tails` are
    all that may be behind it, at the end of a conversation and within one.
    """

    generation_prompt: str
    headers: tuple[str, ...]
    end_of_turn: str
    tails: tuple[str, ...]

    def fit(self, text: str, span: Span) -> Span:
        """Move the ends of a marked span to what the model says: from behind the header to the end of its turn."""
        return self.fit_end(text, Span(self._behind_header(text, span.start), span.end))

    def fit_end(self, text: str, span: Span) -> Span:
        """Move the end of a span that begins where the model begins."""
        start, end = span.start, max(span.start, span.end)
        for tail in self.tails:
            if text.endswith(tail, start, end):
                return Span(start, end - len(tail) + len(self.end_of_turn))
        if self.end_of_turn and text.startswith(self.end_of_turn, end):
            # The markers are around the content alone.
            end += len(self.end_of_turn)
        return Span(start, end)

    def _behind_header(self, text: str, start: int) -> int:
        # An answer may begin with a header that it quotes.
        if any(text.endswith(header, 0, start) for header in self.headers):
            return start
        # Markers may take in the whole header (`<｜Assistant｜>`), or its end ("\n" after "assistant").
        for header in self.headers:
            found = text.rfind(header, max(0, start - len(header)), start + len(header))
            if 0 <= found <= start < found + len(header):
                return found + len(header)
        return start


def observe_turn_shape(template: ChatTemplate) -> TurnShape:
    """Render made-up conversations and see what is around the turns."""
    asked = [Message("user", _QUESTION)]
    answered = [*asked, Message("assistant", _ANSWER)]
    told = [*asked, _calling(), Message("tool", _RESULT, name=_CALL)]
    at_end = _behind_answer(template, answered)
    within = _behind_answer(template, [*answered, *asked]).partition(_QUESTION)[0]
    end_of_turn = _first_word(at_end)
    tails = {at_end, _own_tail(within, end_of_turn)} if end_of_turn else set()
    generation_prompt = _generation_prompt(template, asked)
    headers = {_header(template, asked, _QUESTION), _header(template, told, _RESULT)}
    headers |= {generation_prompt} if any(header.endswith(generation_prompt) for header in headers) else set()
    return TurnShape(
        generation_prompt=generation_prompt,
        headers=tuple(sorted(headers - {""}, key=len, reverse=True)),
        end_of_turn=end_of_turn,
        tails=tuple(sorted(tails - {""}, key=len, reverse=True)),
    )


def _render(
    template: ChatTemplate, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> str:
    try:
        return template.render(messages, add_generation_prompt=add_generation_prompt).text
    except TemplateRefusal:
        return ""


def _generation_prompt(template: ChatTemplate, asked: Sequence[Message]) -> str:
    without = _render(template, asked)
    given = _render(template, asked, add_generation_prompt=True)
    if given.startswith(without):
        return given.removeprefix(without)
    # Without a prompt some templates end the text there.
    answered = _render(template, [*asked, Message("assistant", _ANSWER)])
    return given[common_length(given, without) :] if answered.startswith(given) else ""


def _header(template: ChatTemplate, asked: Sequence[Message], last_words: str) -> str:
    """What is before an answer whether or not it is known: the rest of it the model says."""
    given = _render(template, asked, add_generation_prompt=True)
    answered = _render(template, [*asked, Message("assistant", _ANSWER)])
    _, found, header = answered[: common_length(given, answered)].rpartition(last_words)
    return header if found else ""


def common_length(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginnings."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(place for place in range(shorter) if one[place] != other[place])


def _behind_answer(template: ChatTemplate, messages: Sequence[Message]) -> str:
    return _render(template, messages).partition(_ANSWER)[2]


def _first_word(text: str) -> str:
    found = _FIRST_WORD.match(text)
    return found[0] if found else ""


def _own_tail(within: str, end_of_turn: str) -> str:
    # What follows the end of a turn up to the next turn's header is white space: "\n" in ChatML.
    if not within.startswith(end_of_turn):
        return end_of_turn
    behind = within[len(end_of_turn) :]
    return end_of_turn + behind[: len(behind) - len(behind.lstrip())]


def _calling(content: str = "") -> Message:
    return Message("assistant", content, tool_calls=(ToolCall(_CALL, {"argument": _ANSWER}),))


@dataclass(frozen=True, slots=True)
class Abilities:
    """What of a conversation a template shows: those that know no tools leave them out without a word."""

    tools: bool
    tool_calls: bool
    text_beside_tool_calls: bool
    tool_results: bool
    reasoning: bool


def observe_abilities(template: ChatTemplate) -> Abilities:
    """Render what many templates do not know, and see whether it is there."""
    asked = Message("user", _QUESTION)
    tool: JsonObject = {
        "type": "function",
        "function": {"name": _TOOL, "description": "", "parameters": {"type": "object", "properties": {}}},
    }
    thought = Message("assistant", _ANSWER, thinking=_THOUGHT)
    return Abilities(
        tools=_shows(template, [asked], (_TOOL,), tools=[tool]),
        tool_calls=_shows(template, [asked, _calling()], (_CALL, _ANSWER)),
        text_beside_tool_calls=_shows(template, [asked, _calling(_RESULT)], (_CALL, _RESULT)),
        tool_results=_shows(template, [asked, _calling(), Message("tool", _RESULT, name=_CALL)], (_RESULT,)),
        reasoning=_shows(template, [asked, thought], (_THOUGHT,)),
    )


def _shows(
    template: ChatTemplate,
    messages: Sequence[Message],
    words: Sequence[str],
    tools: Sequence[JsonObject] = (),
) -> bool:
    try:
        text = template.render(messages, tools).text
    except TemplateRefusal:
        # Such rows are refused too, with the template's own reason.
        return True
    return all(word in text for word in words)


@dataclass(frozen=True, slots=True)
class Alternation:
    """What stands between turns, where user and assistant alternate and the template writes each turn by itself."""

    before_question: str
    before_answer: str
    behind_question: str
    behind_answer: str
    end_of_turn: str
    is_trimmed: bool

    def find_answers(self, text: str, messages: Sequence[Message]) -> list[Span] | None:
        """The answers in a rendered conversation, in order, each with its end of turn; None where it is not so simple.

        The text is compared as a whole from its end back to the first question: an answer that quotes the markup is no
        trap, and one rendering finds all turns.
        """
        turns = messages[1:] if messages and messages[0].role == "system" else messages
        if not _alternate(turns):
            return None
        spans: list[Span] = []
        end, behind = len(text), self.behind_answer if turns[-1].role == "assistant" else self.behind_question
        for turn in reversed(turns):
            is_answer = turn.role == "assistant"
            content = turn.content.strip() if self.is_trimmed else turn.content
            if not text.endswith(content + behind, 0, end):
                return None
            stop = end - len(behind)
            end = stop - len(content)
            if is_answer:
                spans.append(Span(end, stop + len(self.end_of_turn)))
            behind = self.before_answer if is_answer else self.before_question
        return spans[::-1]


def _alternate(turns: Sequence[Message]) -> bool:
    return bool(turns) and all(
        turn.role == ("assistant" if place % 2 else "user") and not turn.tool_calls and not turn.thinking
        for place, turn in enumerate(turns)
    )


def observe_alternation(template: ChatTemplate, shape: TurnShape) -> Alternation | None:
    """See whether the template writes each turn by itself; None where a turn depends on others."""
    words = [f"{word}{turn}" for turn in (1, 2, 3) for word in (_QUESTION, _ANSWER)]
    padded = [f" \n{word}\n " for word in words]
    for is_trimmed in (False, True):
        contents = [word.strip() for word in padded] if is_trimmed else padded
        messages = [
            Message("assistant" if place % 2 else "user", content) for place, content in enumerate(padded)
        ]
        pieces = _split(_render(template, messages), contents)
        ended = _split(_render(template, messages[:-1]), contents[:-1])
        if pieces is not None and ended is not None:
            return _alternation(pieces[1:], ended[-1], shape, is_trimmed)
    return None


def _split(text: str, contents: Sequence[str]) -> list[str] | None:
    pieces = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found:
            return None
        pieces.append(before)
    return [*pieces, text]


def _alternation(
    behind: Sequence[str], behind_question: str, shape: TurnShape, is_trimmed: bool
) -> Alternation | None:
    """`behind` are the texts behind question, answer, question, answer, question and answer."""
    before_answers, before_questions, behind_answer = behind[0:5:2], behind[1:4:2], behind[5]
    if len(set(before_answers)) > 1 or len(set(before_questions)) > 1 or not shape.end_of_turn:
        return None
    before_answer, before_question = before_answers[0], before_questions[0]
    ends = before_question.startswith(shape.end_of_turn) and behind_answer.startswith(shape.end_of_turn)
    if not ends or not before_answer.endswith(shape.generation_prompt):
        return None
    return Alternation(
        before_question, before_answer, behind_question, behind_answer, shape.end_of_turn, is_trimmed
    )
