"""Text as bytes: TFDS builders that prepare a corpus, and Grain pipelines that batch it.

A builder turns raw files into prepared splits, `load_bytes` reads a split into one vector of bytes,
and `train_batches` and `evaluation_batches` cut any such vector into windows. `fit_bigram` gives
the score that a model has to beat. Nothing here knows of models or training.
"""

from deqjax.data._errors import DataError
from deqjax.data._windows import ByteWindows
from deqjax.data.bigram import bits_per_byte, fit_bigram
from deqjax.data.text import evaluation_batches, fingerprint, load_bytes, train_batches

__all__ = [
    "ByteWindows",
    "DataError",
    "bits_per_byte",
    "evaluation_batches",
    "fingerprint",
    "fit_bigram",
    "load_bytes",
    "train_batches",
]
