import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deqjax.data import DataError
from deqjax.data.images._decode import DamagedImageError, decode, read_header
from image_samples import encoded

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def saved(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def of_mode(mode, color, size=(2, 1), form="PNG", **options):
    return saved(Image.new(mode, size, color), form, **options)


def test_a_png_decodes_to_its_very_pixels():
    np.testing.assert_array_equal(decode(encoded(PIXELS), 3), PIXELS, strict=True)


def test_a_jpeg_decodes_to_about_its_pixels():
    smooth = np.full((8, 16, 3), (200, 100, 50), np.uint8)
    np.testing.assert_allclose(decode(encoded(smooth, "JPEG"), 3), smooth, atol=3)


def test_a_gray_image_has_one_channel():
    np.testing.assert_array_equal(decode(encoded(PIXELS[..., 0]), 1), PIXELS[..., :1], strict=True)


def test_a_gray_image_among_colored_ones_has_three_channels():
    gray = decode(encoded(PIXELS[..., 0]), 3)
    np.testing.assert_array_equal(gray, np.repeat(PIXELS[..., :1], 3, axis=-1))


@pytest.mark.parametrize("damage", [lambda b: b"nothing", lambda b: b[:60], lambda b: b""])
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(DamagedImageError, match=r"^an image of \d+ bytes cannot be decoded \("):
        decode(damage(encoded(PIXELS)), 3)


# Modes


SIXTEEN = np.array([[0, 257, 128 * 257, 65535]], np.uint16)


@pytest.mark.parametrize(
    "file",
    [
        saved(Image.fromarray(SIXTEEN)),
        saved(Image.fromarray(SIXTEEN), "TIFF"),
        b"P5 4 1 65535\n" + SIXTEEN.astype(">u2").tobytes(),
    ],
    ids=["png", "tiff", "pgm"],
)
def test_16_bits_of_gray_are_scaled(file):
    np.testing.assert_array_equal(decode(file, 1)[..., 0], [[0, 1, 128, 255]])
    np.testing.assert_array_equal(decode(file, 3), [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]])


def test_16_bits_are_rounded_to_the_nearest():
    values = np.arange(0, 65536, 11, dtype=np.uint16)[None]
    expected = np.rint(values / 65535 * 255)
    np.testing.assert_array_equal(decode(saved(Image.fromarray(values)), 1)[..., 0], expected)


@pytest.mark.parametrize(
    ("mode", "kind"), [("I", "integers of 32 bits"), ("F", "floating-point numbers")]
)
def test_values_without_a_range_are_refused(mode, kind):
    file = of_mode(mode, 1, form="TIFF")
    for read in (lambda: decode(file, 3), lambda: read_header(io.BytesIO(file), "the image 'x'")):
        with pytest.raises(DataError, match=rf"holds {kind}, of which .*: save it with 8 or 16 bi"):
            read()


SEEN = {
    "opaque": (of_mode("RGBA", (200, 100, 50, 255)), (200, 100, 50)),
    "clear": (of_mode("RGBA", (200, 100, 50, 0)), (255, 255, 255)),
    "veil": (of_mode("RGBA", (0, 0, 0, 51)), (204, 204, 204)),  # a fifth of black over white
    "gray": (of_mode("LA", (100, 255)), (100, 100, 100)),
    "clear gray": (of_mode("LA", (100, 0)), (255, 255, 255)),
    "key": (of_mode("L", 7, transparency=7), (255, 255, 255)),
    "clear palette": (of_mode("P", 0, transparency=0), (255, 255, 255)),
    "palette": (of_mode("RGB", (1, 2, 3), form="GIF"), (1, 2, 3)),
    "cmyk": (of_mode("CMYK", (0, 255, 255, 0), form="TIFF"), (255, 0, 0)),
    "bit": (of_mode("1", 1), (255, 255, 255)),
}


@pytest.mark.parametrize("name", SEEN)
def test_every_mode_has_the_colors_that_are_seen(name):
    file, color = SEEN[name]
    np.testing.assert_array_equal(decode(file, 3), [[color, color]])


# Orientation

# What has to be done to the stored pixels, from the EXIF standard's row and column of each number.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("number", UPRIGHT)
def test_images_stand_upright(form, number):
    exif = Image.Exif()
    exif[0x0112] = number
    options = {"lossless": True} if form == "WEBP" else {}
    file = saved(Image.fromarray(PIXELS), form, exif=exif, **options)
    stored = PIXELS if form != "JPEG" else decode(saved(Image.fromarray(PIXELS), "JPEG"), 3)
    np.testing.assert_array_equal(decode(file, 3), UPRIGHT[number](stored))
    header = read_header(io.BytesIO(file), "the image 'x'")
    assert (header.height, header.width) == UPRIGHT[number](PIXELS).shape[:2]


def test_broken_exif_does_not_harm_the_pixels():
    file = saved(Image.fromarray(PIXELS), "PNG", exif=b"Exif\x00\x00nonsense")
    np.testing.assert_array_equal(decode(file, 3), PIXELS)


# Size


def claiming(width, height):
    """A PNG whose header claims a size; there are no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4)


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_more_pixels_than_the_limit_are_refused(side):
    sentence = rf"^the image 'x' has {side**2} pixels, more than the {Image.MAX_IMAGE_PIXELS} that"
    with pytest.raises(DataError, match=sentence):
        decode(claiming(side, side), 3, "the image 'x'")
    with pytest.raises(DataError, match=sentence):
        read_header(io.BytesIO(claiming(side, side)), "the image 'x'")


def test_the_limit_is_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    with pytest.raises(DataError, match="has 35 pixels, more than the 34 that are decoded: make"):
        decode(encoded(PIXELS), 3)


def test_headers_tell_gray_from_color():
    files = [encoded(PIXELS), encoded(PIXELS[..., 0]), saved(Image.fromarray(SIXTEEN))]
    grays = [read_header(io.BytesIO(file), "the image 'x'").gray for file in files]
    assert grays == [False, True, True]
