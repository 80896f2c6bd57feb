"""Which rows say the same: exactly (exact.py), or nearly, by TF-IDF cosine (tfidf.py) or by MinHash (minhash.py).

tfidf.py brings scikit-learn and minhash.py datasketch, a second of start each: import them where a job asks for them.
"""

from finetune_trainer.data.similarity.duplicates import Duplicates, SimilarPair
from finetune_trainer.data.similarity.exact import (
    Contradictions,
    exact_duplicates,
    exact_key,
    find_contradictions,
    find_leakage,
    text_key,
)
from finetune_trainer.data.similarity.words import comparable_text

__all__ = [
    "Contradictions",
    "Duplicates",
    "SimilarPair",
    "comparable_text",
    "exact_duplicates",
    "exact_key",
    "find_contradictions",
    "find_leakage",
    "text_key",
]
