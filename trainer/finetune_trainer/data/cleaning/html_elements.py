"""The names of HTML's elements, today's and those of old pages, by what cleaning does where their tags stood."""

from __future__ import annotations


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


CELLS = _names("td th")
LINES = _names(
    "body br caption dd details dt div figcaption head html legend li optgroup option summary tbody tfoot thead "
    "title tr"
)
PARAGRAPHS = _names(
    "address article aside blockquote center dl fieldset figure footer form h1 h2 h3 h4 h5 h6 header hr main nav ol "
    "p pre section table ul"
)
_INLINE = _names(
    "a abbr acronym area audio b base bdi bdo big blink button canvas cite code col colgroup data datalist del dfn "
    "dialog em embed font frame frameset hgroup i iframe img input ins kbd label link map mark marquee math menu meta "
    "meter noframes noscript object output param picture progress q rp rt ruby s samp search select slot small source "
    "span strike strong sub sup template textarea time track tt u var video wbr"
)
# These go with all they contain: it is no text.
WITHOUT_TEXT = _names("script style svg")
ELEMENTS = CELLS | LINES | PARAGRAPHS | _INLINE | WITHOUT_TEXT

# These need no end tag. Other empty elements (input, link, source …) do nothing without attributes: then the word in
# brackets stands for something else, as in `cp <source> <target>`.
EVEN_ALONE = _names("br hr wbr img p li dt dd tr td th")
EMPTY = _names("area base br col embed frame hr img input link meta param source track wbr")

# The attributes that are written without a value.
WITHOUT_VALUE = _names(
    "allowfullscreen async autofocus autoplay border checked compact controls default defer disabled download hidden "
    "ismap itemscope loop multiple muted nohref nomodule noresize noshade novalidate nowrap open playsinline readonly "
    "required reversed selected"
)
