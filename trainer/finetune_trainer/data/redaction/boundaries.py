"""Where a number begins and ends: parts of regular expressions for what may not touch it.

A number is not part of a longer one, of a product code (`HX-13800138000-B`), of a decimal or of a name (`IMG_1380…`).
"""

from __future__ import annotations

NOT_CONTINUED_BEFORE = r"(?<![0-9])(?<![0-9A-Za-z][._-])"
NOT_CONTINUED_AFTER = r"(?![0-9]|[._-][0-9A-Za-z])"
NO_LETTER_BEFORE = r"(?<![A-Za-z])"
NO_LETTER_AFTER = r"(?![A-Za-z])"
# The strict form, for shapes that say little by themselves.
APART_BEFORE = NOT_CONTINUED_BEFORE + NO_LETTER_BEFORE
APART_AFTER = NOT_CONTINUED_AFTER + NO_LETTER_AFTER
