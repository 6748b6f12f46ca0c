"""Encoded images as bytes of color: every mode that has a range, upright, and never too large."""

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data.pipeline import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# What Pillow raises for broken files.
_DAMAGES = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
# Formats whose 32-bit mode "I" holds 16 bits.
_SIXTEEN_BITS = ("PNG", "PPM")
_WITH_ALPHA = ("RGBA", "LA", "PA")
_GRAY = ("1", "L", "LA", "I")
_SIDEWAYS = (5, 6, 7, 8)  # orientations of EXIF that exchange height and width
_ORIENTATION = 0x0112


class DamagedImageError(DataError):
    """Bytes that are no image, or no whole one."""


class Header(NamedTuple):
    """What a file says of its image before any pixel is decoded."""

    height: int  # as it is seen, upright
    width: int
    gray: bool


def decode(encoded: bytes, channels: int, name: str | None = None) -> NDArray[np.uint8]:
    """An image of any format of Pillow's as (height, width, channels): 3 for colors, 1 for gray.

    - 16 bits of gray are scaled to 8, as Pillow does with colors.
    - What is transparent is laid over white, as most programs show it.
    - The orientation that EXIF tells of is undone: the image stands upright.
    - Of several pictures (an animation, pages) the first one is taken.

    Args:
        encoded: the file's bytes.
        channels: 3 or 1.
        name: of the image, for sentences; None is "an image of so many bytes".

    Raises:
        DamagedImageError: the bytes are no image or are damaged.
        DataError: it has more pixels than Pillow's `Image.MAX_IMAGE_PIXELS`, or values of 32 bits,
            of which no file says what is white.
    """
    name = name or f"an image of {len(encoded)} bytes"
    with _opened(io.BytesIO(encoded), name) as image:
        _check_range(image, name)
        image.load()
        orientation = _orientation(image)  # may follow the pixels
        pixels = np.asarray(_upright(_in_bytes(image, channels), orientation))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_header(stream: BinaryIO, name: str) -> Header:
    """What a file says of its image; no pixel is decoded.

    Raises:
        DamagedImageError, DataError: as `decode` does, where the header is enough to tell.
    """
    with _opened(stream, name) as image:
        _check_range(image, name)
        width, height = image.size
        # Pillow turns a TIFF's size by itself; of a PNG it would decode all to look for EXIF
        known = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        if known and _orientation(image) in _SIDEWAYS:
            width, height = height, width
        return Header(height, width, image.mode in _GRAY or image.mode.startswith("I;16"))


@contextlib.contextmanager
def _opened(stream: BinaryIO, name: str) -> "Iterator[ImageFile]":
    """The image with its header read; says in one sentence what goes wrong meanwhile."""
    from PIL import Image

    try:
        with Image.open(stream) as image:
            limit = (
                Image.MAX_IMAGE_PIXELS
            )  # Pillow itself warns above it, and refuses twice as many
            if limit is not None and image.width * image.height > limit:
                raise _too_large(image.width * image.height, name)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        (claimed, *_) = re.findall(r"\d+", str(error))
        raise _too_large(int(claimed), name) from error
    except _DAMAGES as error:
        raise DamagedImageError(f"{name} cannot be decoded ({error})") from error


def _too_large(pixels: int, name: str) -> DataError:
    from PIL import Image

    return DataError(
        f"{name} has {pixels} pixels, more than the {Image.MAX_IMAGE_PIXELS} that are decoded: "
        "make it smaller, or leave it out"
    )


def _check_range(image: "ImageFile", name: str) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS):
        kind = "floating-point numbers" if image.mode == "F" else "integers of 32 bits"
        raise DataError(
            f"{name} holds {kind}, of which the file does not say what is black and what is white: "
            "save it with 8 or 16 bits a value"
        )


def _in_bytes(image: "ImageFile", channels: int) -> "Image":
    """The image in 8 bits a value and `channels` channels, its range that of its mode."""
    from PIL import Image

    mode = "RGB" if channels == 3 else "L"
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32)  # 0 to 65535 = 255 * 257
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert(mode)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert(mode)
    return image.convert(mode)


def _orientation(image: "ImageFile") -> int:
    """How EXIF says that the image is turned, 1 to 8; 1 if it says nothing that can be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGES:  # broken EXIF does not harm the pixels
        return 1
    return found if isinstance(found, int) else 1


def _upright(image: "Image", orientation: int) -> "Image":
    from PIL.Image import Transpose

    undo = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if undo is None else image.transpose(undo)
