"""Names that tensors of decoder models have in safetensors files, as transformers gives them."""

from __future__ import annotations

INPUT_EMBEDDING = "model.embed_tokens.weight"
OUTPUT_HEAD = "lm_head.weight"
# Of every `…ForSequenceClassification` made of a decoder; it is trained from nothing.
CLASS_HEAD = "score.weight"
