"""Takes marks of layout out of a text and leaves what they mark: Markdown, BBCode and the links of wikis.

Code, whether fenced, in backticks or in `[code]`, and LaTeX stay as they are, and so do lists, quotations and rules,
which read well as plain text. A mark must look like one on both sides: `2*3*4`, `snake_case` and `a[i](x)` are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from finetune_trainer.data.cleaning.protected_spans import hide_code_and_formulas

Rule = Callable[[str], tuple[str, int]]

_MAY_BE_MARKUP = re.compile(r"[*_~#\[|=]")

# --- BBCode ----------------------------------------------------------------------------------------------------

_BB_NAMES = (
    "align b center color email font h[1-6] hide i img indent justify left list quote right s size spoiler sub sup "
    "table td th tr u url video youtube".replace(" ", "|")
)
_BB_TAG = re.compile(rf"\[(?P<close>/?)(?P<name>{_BB_NAMES})(?:=[^\]\n]{{0,300}})?\]", re.IGNORECASE)
_BB_WITHOUT_TEXT = re.compile(
    r"\[(img|video|youtube)(?:=[^\]\n]{0,100})?\][^\[\]\n]{0,2000}\[/\1\]", re.IGNORECASE
)
_BB_ITEM = re.compile(r"^[ \t]*\[\*\][ \t]*", re.MULTILINE)


def _without_bbcode(text: str) -> tuple[str, int]:
    if "[/" not in text:
        return text, 0
    text, without_text = _BB_WITHOUT_TEXT.subn("", text)
    names = [(match["name"].lower(), bool(match["close"])) for match in _BB_TAG.finditer(text)]
    # `x[i]` is an index, until the text also has `[/i]`.
    paired = {name for name, closes in names if closes and (name, False) in names}
    removed = 0

    def kept(match: re.Match[str]) -> str:
        nonlocal removed
        if match["name"].lower() not in paired:
            return match[0]
        removed += 1
        return ""

    text = _BB_TAG.sub(kept, text)
    items = 0
    if "list" in paired:
        text, items = _BB_ITEM.subn("- ", text)
    return text, without_text + removed + items


# --- links -----------------------------------------------------------------------------------------------------

_WIKI_LINK = re.compile(
    r"(?<![\w\])(=,\[])\[\[(?P<target>[^\W\d_][^\[\]|\n]{0,200})(?:\|(?P<shown>[^\[\]\n]{1,500}))?\]\](?!\])"
)
_WIKI_WITHOUT_TEXT = re.compile(
    r"(?:file|image|category|media|文件|檔案|图像|圖像|分类|分類):", re.IGNORECASE
)
_ADDRESS = r"""\([ \t]*(?:<[^<>\n]*>|(?:[^\s()<>]|\([^\s()]*\))*)(?:[ \t]+(?:"[^"\n]*"|'[^'\n]*'))?[ \t]*\)"""
_IMAGE = re.compile(rf"!\[(?P<shown>[^\[\]]{{0,1000}})\]{_ADDRESS}")
_LINK = re.compile(rf"(?<![A-Za-z0-9_\])!])\[(?P<shown>[^\[\]]{{1,1000}})\]{_ADDRESS}")
_DEFINITION = re.compile(
    r"""^ {0,3}\[(?P<name>[^\[\]\^\n][^\[\]\n]{0,200})\]:[ \t]+<?(?:https?://|/|\#|\.)[^\s<>]*>?"""
    r"""(?:[ \t]+(?:"[^"\n]*"|'[^'\n]*'|\([^()\n]*\)))?[ \t]*(?:\n|\Z)""",
    re.MULTILINE,
)
_REFERENCE = re.compile(r"!?\[(?P<shown>[^\[\]\n]{1,500})\](?:\[(?P<name>[^\[\]\n]{0,200})\])?")
_AUTOLINK = re.compile(r"<((?:https?|ftp)://[^\s<>]+|mailto:[^\s<>]+)>")


def _without_links(text: str) -> tuple[str, int]:
    if "[" not in text and "<" not in text:
        return text, 0
    text, wiki = _WIKI_LINK.subn(_wiki_words, text)
    text, images = _IMAGE.subn(r"\g<shown>", text)
    text, links = _LINK.subn(r"\g<shown>", text)
    text, references = _without_references(text)
    text, autolinks = _AUTOLINK.subn(r"\1", text)
    return text, wiki + images + links + references + autolinks


def _wiki_words(match: re.Match[str]) -> str:
    if _WIKI_WITHOUT_TEXT.match(match["target"]):
        return ""
    shown: str = match["shown"] or match["target"]
    return shown


def _without_references(text: str) -> tuple[str, int]:
    """`[text][name]` where the text defines `[name]: https://…`."""
    defined = {match["name"].casefold() for match in _DEFINITION.finditer(text)}
    if not defined:
        return text, 0
    text, definitions = _DEFINITION.subn("", text)
    references = 0

    def shown(match: re.Match[str]) -> str:
        nonlocal references
        if (match["name"] or match["shown"]).casefold() not in defined:
            return match[0]
        references += 1
        words: str = match["shown"]
        return words

    return _REFERENCE.sub(shown, text), definitions + references


# --- lines -----------------------------------------------------------------------------------------------------

_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(?P<words>\S[^\n]*?)(?:[ \t]+#+)?[ \t]*$", re.MULTILINE)
_UNDERLINE = re.compile(r"(?<=[^\s=])[ \t]*\n {0,3}={3,}[ \t]*$", re.MULTILINE)
_TABLE_RULE = re.compile(r"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")


def _without_headings(text: str) -> tuple[str, int]:
    text, headings = _HEADING.subn(r"\g<words>", text)
    text, underlined = _UNDERLINE.subn("", text)
    return text, headings + underlined


def _without_tables(text: str) -> tuple[str, int]:
    """Rows of cells separated by tabs, in place of Markdown's tables."""
    if "|" not in text or "-" not in text:
        return text, 0
    lines = text.split("\n")
    rules = [at for at, (above, line) in enumerate(pairwise(lines), 1) if _is_table_rule(above, line)]
    if not rules:
        return text, 0
    return "\n".join(_table_lines(lines, set(rules))), len(rules)


def _is_table_rule(above: str, line: str) -> bool:
    return "|" in above and "|" in line and bool(_TABLE_RULE.match(line))


def _table_lines(lines: list[str], rules: set[int]) -> Iterator[str]:
    is_table = False
    for at, line in enumerate(lines):
        is_table = at + 1 in rules or at in rules or (is_table and "|" in line)
        if at not in rules:
            yield "\t".join(_cells(line)) if is_table else line


def _cells(line: str) -> Iterator[str]:
    row = line.strip().removeprefix("|")
    for cell in re.split(r"(?<!\\)\|", row.removesuffix("|")):
        yield cell.strip().replace("\\|", "|")


# --- emphasis --------------------------------------------------------------------------------------------------

# An address is skipped whole.
_ADDRESS_OR = r"(?P<address>(?:https?|ftp)://[^\s<>*]+)|"


def _pair(mark: str, outside: str, stop: str, *, is_strict: bool) -> re.Pattern[str]:
    """A mark that opens before and closes after something that is no space, and touches nothing of `outside`.

    The words end at `stop`, where a mark of the same kind may close, and at an empty line; so a scan stays linear.
    Strict is CommonMark's rule on punctuation, which keeps `*a，*b` whole. Two stars are read more kindly than there:
    Chinese text has `**注意：**请` everywhere.
    """
    words = rf"(?P<words>(?:(?!{stop}|\n[ \t]*\n).){{1,2000}})"
    opened = rf"(?<![{outside}\\])(?P<mark>{mark})(?![\s.,;:!?)\]}}])"
    if is_strict:
        opened += r"(?:(?=\w)|(?<!\w.))"
        closed = rf"(?:(?<=\w)(?P=mark)|(?<=[^\w\s\\])(?P=mark)(?!\w))(?![{outside}])"
    else:
        closed = rf"(?<![\s\\])(?P=mark)(?![{outside}])"
    return re.compile(f"{_ADDRESS_OR}{opened}{words}{closed}", re.DOTALL)


# Products, powers, file patterns (ASCII letters and digits beside a star) and names with underscores stay.
_EMPHASIS = {
    "***": _pair(r"\*{3}(?!\*)", "A-Za-z0-9*", r"\*", is_strict=False),
    "**": _pair(r"\*{2}(?!\*)", "A-Za-z0-9*", r"\*\*(?!\*)", is_strict=False),
    "*": _pair(r"\*(?!\*)", "A-Za-z0-9*", r"\*", is_strict=True),
    "__": _pair("__(?!_)", r"\w", "__", is_strict=True),
    "_": _pair("_(?!_)", r"\w", r"(?<!\w)_|_(?!\w)", is_strict=True),
    "~~": _pair("~~(?!~)", "A-Za-z0-9~", "~~", is_strict=False),
}
# Hidden code counts as a word.
_WORD = re.compile("[^\\W_]|[\U000f0000-\U0010fffd]")
# `__init__` is a name of Python.
_DUNDER = re.compile(r"__[a-z]+(?:_[a-z]+)*__")


def _without_emphasis(text: str) -> tuple[str, int]:
    removed = 0

    def words(match: re.Match[str]) -> str:
        nonlocal removed
        if match["address"] or not _WORD.search(match["words"]) or _DUNDER.fullmatch(match[0]):
            return match[0]
        removed += 1
        found: str = match["words"]
        return found

    for mark, pair in _EMPHASIS.items():
        if mark in text:
            text = pair.sub(words, text)
    return text, removed


_RULES: tuple[Rule, ...] = (
    _without_bbcode,
    _without_links,
    _without_tables,
    _without_headings,
    _without_emphasis,
)


def remove_markup(text: str) -> tuple[str, int]:
    """The text without layout marks; counts tags, links, headings, tables and pairs of emphasis.

    A line of code outside a fence that begins with `# ` reads as a heading: nothing tells them apart.
    """
    if not _MAY_BE_MARKUP.search(text) and "<" not in text:
        return text, 0
    hidden = hide_code_and_formulas(text)
    text, occurrences = hidden.text, 0
    for rule in _RULES:
        text, found = rule(text)
        occurrences += found
    return hidden.restored(text), occurrences
