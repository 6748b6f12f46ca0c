"""Images: data sets by name, their augmentation, and batches of them.

`deqjax.data` re-exports what users need. Knows nothing of text and of models.
"""

from deqjax.data.images._augmentation import Augmentation
from deqjax.data.images._evaluation_rows import ImageEvaluationBatch
from deqjax.data.images._image_batches import (
    ImageBatch,
    image_evaluation_batches,
    image_train_batches,
)
from deqjax.data.images._image_fingerprint import image_fingerprint
from deqjax.data.images._image_sets import IMAGE_SETS, load_images
from deqjax.data.images._images import IGNORE_LABEL, ImageExample, ImageSet, ImageSource

__all__ = [
    "IGNORE_LABEL",
    "IMAGE_SETS",
    "Augmentation",
    "ImageBatch",
    "ImageEvaluationBatch",
    "ImageExample",
    "ImageSet",
    "ImageSource",
    "image_evaluation_batches",
    "image_fingerprint",
    "image_train_batches",
    "load_images",
]
