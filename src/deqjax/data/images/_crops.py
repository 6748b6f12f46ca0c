"""Crops and flips of one image, drawn from a generator; pure functions of both."""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deqjax.data.images._images import ImageExample
from deqjax.data.images._resize import (
    resize_image,
    scaled_image,
    scaled_labels,
    scaled_to_shorter_side,
)

_Pixels = TypeVar("_Pixels", np.uint8, np.int32)
_ATTEMPTS = 10


def crop_and_flip(
    example: ImageExample, generator: np.random.Generator, *, padding: int
) -> ImageExample:
    """A window of the image's own size, moved by up to `padding` pixels, mirrored every other time.

    What lies outside of the image is black. He et al., "Deep Residual Learning for Image
    Recognition", CVPR 2016, arXiv 1512.03385, section 4.2 (padding 4 for CIFAR-10).
    """
    height, width, channels = example.image.shape
    top, left = (int(offset) - padding for offset in generator.integers(2 * padding + 1, size=2))
    black = np.zeros(channels, np.uint8)
    image = _window(example.image, top, left, height, width, black)
    return ImageExample(_maybe_mirrored(image, generator), example.label)


def resized_crop(
    example: ImageExample,
    generator: np.random.Generator,
    *,
    size: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> ImageExample:
    """A part of the image scaled to (size, size), mirrored every other time.

    The part's share of the image's area is uniform within `area`, and its width over its height
    within `aspect`, uniform in the logarithm. A part that fits into the image is drawn anew up to
    ten times; then the largest one in the middle is taken whose aspect ratio is allowed. Szegedy et
    al., "Going Deeper with Convolutions", CVPR 2015, arXiv 1409.4842, section 6.
    """
    height, width, _ = example.image.shape
    box = _centered_box(height, width, aspect)
    for _ in range(_ATTEMPTS):
        part = height * width * generator.uniform(*area)
        ratio = math.exp(generator.uniform(math.log(aspect[0]), math.log(aspect[1])))
        own_height, own_width = round(math.sqrt(part / ratio)), round(math.sqrt(part * ratio))
        if 1 <= own_height <= height and 1 <= own_width <= width:
            top = int(generator.integers(height - own_height + 1))
            left = int(generator.integers(width - own_width + 1))
            box = (left, top, left + own_width, top + own_height)
            break
    image = resize_image(example.image, size, size, box)
    return ImageExample(_maybe_mirrored(image, generator), example.label)


def center_crop(example: ImageExample, *, size: int, shorter_side: int) -> ImageExample:
    """The middle (size, size) of the image whose shorter side is scaled to `shorter_side`.

    Only that part is scaled: `size` must not be larger than `shorter_side`.
    """
    height, width, _ = example.image.shape
    scaled = scaled_to_shorter_side(height, width, shorter_side)
    top, left = ((side - size) // 2 for side in scaled)
    image = scaled_image(example.image, scaled, (top, left, size, size))
    return ImageExample(image, example.label)


def joint_scale_crop(
    example: ImageExample,
    generator: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float],
    fill: NDArray[np.uint8],
    ignore_label: int,
) -> ImageExample:
    """A window of the image and of its pixels' classes, both scaled and mirrored alike.

    The scale is uniform within `scale` and the window's place uniform among all in which it covers
    as much of the image as it can. What lies outside of the image has the color `fill` and the
    class `ignore_label`. As in Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, arXiv
    1612.01105, section 5.1, without their rotation and blur.

    Args:
        example: an image with the class of every pixel.
        generator: of the draws.
        crop: height and width of the window.
        scale: the smallest and the largest scale.
        fill: (channels,).
        ignore_label: a class.
    """
    factor = generator.uniform(*scale)
    height, width = (max(1, round(side * factor)) for side in example.label.shape)
    top = _offset(generator, height, crop[0])
    left = _offset(generator, width, crop[1])
    # Only what is seen is scaled.
    first_row, last_row = max(top, 0), min(top + crop[0], height)
    first_column, last_column = max(left, 0), min(left + crop[1], width)
    part = (first_row, first_column, last_row - first_row, last_column - first_column)
    image = scaled_image(example.image, (height, width), part)
    label = scaled_labels(example.label, (height, width), part)
    ignored = np.asarray(ignore_label, np.int32)
    shift = (top - first_row, left - first_column)
    image = _window(image, *shift, *crop, fill)
    label = _window(label, *shift, *crop, ignored)
    if generator.random() < 0.5:
        return ImageExample(image[:, ::-1], label[:, ::-1])
    return ImageExample(image, label)


def _offset(generator: np.random.Generator, length: int, window: int) -> int:
    """Where a window begins: inside of a longer side, or so that it holds a shorter one."""
    return int(generator.integers(min(length - window, 0), max(length - window, 0) + 1))


def _maybe_mirrored(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    return image[:, ::-1] if generator.random() < 0.5 else image


def _window(
    pixels: NDArray[_Pixels], top: int, left: int, height: int, width: int, fill: NDArray[_Pixels]
) -> NDArray[_Pixels]:
    """(height, width, ...) from row `top` and column `left` on, `fill` outside of `pixels`."""
    rows, columns = pixels.shape[:2]
    if top >= 0 and left >= 0 and top + height <= rows and left + width <= columns:
        return pixels[top : top + height, left : left + width]
    window = np.empty((height, width, *pixels.shape[2:]), pixels.dtype)
    window[...] = fill
    inside = pixels[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    first_row, first_column = max(-top, 0), max(-left, 0)
    window[
        first_row : first_row + inside.shape[0], first_column : first_column + inside.shape[1]
    ] = inside
    return window


def _centered_box(
    height: int, width: int, aspect: tuple[float, float]
) -> tuple[float, float, float, float]:
    own_width = min(width, max(1, round(height * aspect[1])))
    own_height = min(height, max(1, round(width / aspect[0])))
    left, top = (width - own_width) // 2, (height - own_height) // 2
    return left, top, left + own_width, top + own_height
