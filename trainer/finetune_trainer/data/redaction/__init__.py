"""Takes personal data out of text: what is recognised is replaced by a placeholder that names its kind.

`redactor.py` is the way in; one module a kind says what counts. Nothing here logs, and no result carries what was
removed. docs/redaction.md says the same for users, with the figures.
"""

from __future__ import annotations

from finetune_trainer.data.redaction.redactor import PLACEHOLDERS, Redacted, Redactor

__all__ = ["PLACEHOLDERS", "Redacted", "Redactor"]
