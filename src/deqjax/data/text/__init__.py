"""Text: corpora that TFDS prepares, vocabularies, and batches of windows or of streams.

`deqjax.data` re-exports what users need. Knows nothing of images and of models.
"""

from deqjax.data.text._bigram import bits_per_byte, fit_bigram
from deqjax.data.text._corpus import CORPORA, Corpus, load_corpus
from deqjax.data.text._fingerprint import Fingerprint, fingerprint
from deqjax.data.text._streams import (
    EvaluationBatch,
    StreamBatch,
    stream_batches,
    stream_evaluation_batches,
)
from deqjax.data.text._text import evaluation_batches, load_bytes, train_batches
from deqjax.data.text._vocabulary import TextDecoder, Vocabulary
from deqjax.data.text._windows import Windows

__all__ = [
    "CORPORA",
    "Corpus",
    "EvaluationBatch",
    "Fingerprint",
    "StreamBatch",
    "TextDecoder",
    "Vocabulary",
    "Windows",
    "bits_per_byte",
    "evaluation_batches",
    "fingerprint",
    "fit_bigram",
    "load_bytes",
    "load_corpus",
    "stream_batches",
    "stream_evaluation_batches",
    "train_batches",
]
