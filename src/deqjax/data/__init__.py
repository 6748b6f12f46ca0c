"""Text as tokens: TFDS builders that prepare a corpus, and Grain pipelines that batch it.

`load_corpus` gives the splits of a corpus as vectors of tokens, with the vocabulary that says what
they stand for. `train_batches` and `evaluation_batches` cut any such vector into windows that stand
alone; `stream_batches` and `stream_evaluation_batches` into segments that continue each other, for
models with a memory. `fit_bigram` gives the score that a model of bytes has to beat. Nothing here
knows of models or training.

Images likewise: `load_images` gives the splits of an image data set, `image_train_batches` and
`image_evaluation_batches` batches of them, changed as an `Augmentation` says.

Puzzles: `load_puzzles` makes them, or reads published ones, and `check_solution` looks at answers.
"""

from deqjax._extras import needs

with needs("train", "deqjax.data"):
    from deqjax.data.images import (
        IGNORE_LABEL,
        IMAGE_SETS,
        Augmentation,
        ImageBatch,
        ImageEvaluationBatch,
        ImageExample,
        ImageSet,
        ImageSource,
        image_evaluation_batches,
        image_fingerprint,
        image_train_batches,
        load_images,
    )
    from deqjax.data.pipeline import DataError
    from deqjax.data.puzzles import PUZZLES, PuzzleSet, check_solution, load_puzzles
    from deqjax.data.text import (
        CORPORA,
        Corpus,
        EvaluationBatch,
        Fingerprint,
        StreamBatch,
        TextDecoder,
        Vocabulary,
        Windows,
        bits_per_byte,
        evaluation_batches,
        fingerprint,
        fit_bigram,
        load_bytes,
        load_corpus,
        stream_batches,
        stream_evaluation_batches,
        train_batches,
    )

__all__ = [
    "CORPORA",
    "IGNORE_LABEL",
    "IMAGE_SETS",
    "PUZZLES",
    "Augmentation",
    "Corpus",
    "DataError",
    "EvaluationBatch",
    "Fingerprint",
    "ImageBatch",
    "ImageEvaluationBatch",
    "ImageExample",
    "ImageSet",
    "ImageSource",
    "PuzzleSet",
    "StreamBatch",
    "TextDecoder",
    "Vocabulary",
    "Windows",
    "bits_per_byte",
    "check_solution",
    "evaluation_batches",
    "fingerprint",
    "fit_bigram",
    "image_evaluation_batches",
    "image_fingerprint",
    "image_train_batches",
    "load_bytes",
    "load_corpus",
    "load_images",
    "load_puzzles",
    "stream_batches",
    "stream_evaluation_batches",
    "train_batches",
]
