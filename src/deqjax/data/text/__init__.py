"""Text: corpora that TFDS prepares, vocabularies, and batches of windows or of streams.

`deqjax.data` re-exports what users need. Knows nothing of images and of models.
"""

from deqjax.data.text._fingerprint import Fingerprint

__all__ = ["Fingerprint"]
