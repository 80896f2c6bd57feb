"""Takes out characters that nobody sees: controls, zero-width spaces, byte-order marks, marks of writing direction.

What a script or an emoji needs stays: joiners between emoji and in Arabic, Persian and Indic words, variation
selectors, the tag letters of flags. Line ends become `\n`, so that no words are glued together.
"""

from __future__ import annotations

import re

# \r, vertical tab, form feed and NEL end a line, as in str.splitlines.
_LINE_END = r"\r\n|[\r\x0b\x0c\x85]"
_INVISIBLE = (
    r"\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # C0 and C1, without \t, \n and what ends a line
    r"\xad\u034f"  # soft hyphen, grapheme joiner
    r"\u180e\u200b\u2060-\u2064\ufeff"  # spaces and joiners without width, byte-order mark
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # writing direction
    r"\u206a-\u206f\ufff9-\ufffb"  # deprecated formats, interlinear annotation
    r"\ud800-\udfff\ufffe\uffff"  # half a surrogate pair, non-characters
)
_EMOJI = r"\u2190-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
# Scripts whose words are written with (non-)joiners: Arabic to Thaana, the Indic ones, Myanmar, Khmer, Mongolian.
_JOINING_SCRIPTS = (
    r"\u0600-\u07bf\u0860-\u0dff\u1000-\u109f\u1780-\u17ff\u1800-\u18af\ufb50-\ufdff\ufe70-\ufefc"
)
_REMOVED = re.compile(
    rf"(?P<line>{_LINE_END})"
    rf"|[{_INVISIBLE}]+"
    rf"|(?<![{_JOINING_SCRIPTS}])\u200c"
    rf"|(?<![{_EMOJI}{_JOINING_SCRIPTS}])\u200d"
    rf"|(?<=[{_EMOJI}])\u200d(?![{_EMOJI}])"
    # Tag letters follow the black flag (England, Scotland, Wales); elsewhere they hide text.
    r"|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0001\U000e0020-\U000e007f]+"
)


def remove_control_characters(text: str) -> tuple[str, int]:
    """The text without invisible characters; counts the characters taken out or replaced."""
    characters = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal characters
        characters += len(match[0])
        return "\n" if match["line"] else ""

    return _REMOVED.sub(replacement, text), characters
