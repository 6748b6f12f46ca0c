"""Images in other sizes."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # height, width
Part = tuple[int, int, int, int]  # top, left, height, width
Box = tuple[float, float, float, float]  # left, top, right, bottom, as Pillow has it


def resize_image(
    image: NDArray[np.uint8], height: int, width: int, box: Box | None = None
) -> NDArray[np.uint8]:
    """The part of an image inside `box` (None: all of it), (height, width, channels).

    Bilinear; when it shrinks, every pixel inside the filter's widened support counts, so nothing is
    aliased.
    """
    from PIL.Image import Resampling

    resized = np.asarray(_to_pillow(image).resize((width, height), Resampling.BILINEAR, box))
    return resized.reshape(height, width, image.shape[-1])


def at_resolution(image: NDArray[np.uint8], resolution: int | None) -> NDArray[np.uint8]:
    """The image scaled so that its shorter side has so many pixels; None leaves it alone."""
    if resolution is None:
        return image
    height, width, _ = image.shape
    return resize_image(image, *scaled_to_shorter_side(height, width, resolution))


def scaled_image(image: NDArray[np.uint8], scaled: Size, part: Part) -> NDArray[np.uint8]:
    """`part` of the image scaled to the size `scaled`: only what is wanted is computed."""
    down, across = image.shape[0] / scaled[0], image.shape[1] / scaled[1]
    top, left, height, width = part
    # Rounding must not leave the image.
    right, bottom = (
        min((left + width) * across, image.shape[1]),
        min((top + height) * down, image.shape[0]),
    )
    return resize_image(image, height, width, (left * across, top * down, right, bottom))


def scaled_labels(
    labels: NDArray[np.int32], scaled: Size, part: Part | None = None
) -> NDArray[np.int32]:
    """`part` (None: all) of the classes of pixels scaled to `scaled`, each its nearest neighbor's.

    In whole numbers: a neighbor on the very edge of two does not depend on rounding.
    """
    top, left, height, width = part or (0, 0, *scaled)
    rows = (2 * np.arange(top, top + height) + 1) * labels.shape[0] // (2 * scaled[0])
    columns = (2 * np.arange(left, left + width) + 1) * labels.shape[1] // (2 * scaled[1])
    chosen: NDArray[np.int32] = labels[rows[:, None], columns]
    return chosen


def scaled_to_shorter_side(height: int, width: int, shorter: int) -> Size:
    """Height and width with the same aspect ratio whose smaller one is `shorter`."""
    if height <= width:
        return shorter, max(shorter, round(width * shorter / height))
    return max(shorter, round(height * shorter / width)), shorter


def _to_pillow(image: NDArray[np.uint8]) -> "Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image))
