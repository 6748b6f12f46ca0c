"""An image data set of one's own: a folder with a folder for every class."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqjax.data._paths import expanded
from deqjax.data.images._decode import Header, decode, read_header
from deqjax.data.images._decoded import kept_if_small
from deqjax.data.images._folder_files import Files, check_classes, find_files
from deqjax.data.images._held_out import held_out
from deqjax.data.images._images import SPLITS, ImageExample, ImageSet
from deqjax.data.images._resize import Size, at_resolution, scaled_to_shorter_side
from deqjax.data.images._statistics import channel_statistics
from deqjax.data.pipeline import DataError


class FolderImages:
    """Image files of one split, decoded one at a time when they are asked for."""

    def __init__(
        self,
        root: str,
        files: Sequence[str],
        labels: NDArray[np.int32],
        *,
        channels: int,
        size: Size | None,
        resolution: int | None,
    ) -> None:
        """Names the examples.

        Args:
            root: of the data set.
            files: paths below it.
            labels: (files,) their classes.
            channels: of every image.
            size: height and width of every image, scaled to `resolution`; None where they differ.
            resolution: the shorter side of every image, scaled to it; None leaves images alone.
        """
        self.root = root
        self.files = files
        self.labels = labels
        self.channels = channels
        self.size = size
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> ImageExample:
        path = os.path.join(self.root, self.files[index])
        try:
            with open(path, "rb") as stream:
                encoded = stream.read()
        except OSError as error:
            raise _unreadable(path, error) from error
        image = at_resolution(decode(encoded, self.channels, _name(path)), self.resolution)
        if self.size is not None and image.shape[:2] != self.size:
            raise DataError(
                f"{_name(path)} is of size {image.shape[:2]}, where its header and all others are "
                f"of {self.size}: save it anew"
            )
        return ImageExample(image, self.label(index))

    def label(self, index: int) -> NDArray[np.int32]:
        """The label of an example; no file is read."""
        return np.asarray(self.labels[index])

    def __repr__(self) -> str:
        return f"FolderImages({len(self)} of {self.root!r})"


def load_folder(
    folder: str | os.PathLike[str],
    resolution: int | None,
    class_names: Sequence[str] | None = None,
) -> ImageSet:
    """The images root/train/CLASS/IMAGE and, where they are there, of validation and test.

    A split that is missing is held out of the training images (`held_out`). The images are gray if
    all files are. Mean and deviation are those of at most 512 training images. The header of every
    file is read at once; images of one size that take no more than 1 GiB stay in memory once they
    have been decoded.

    Args:
        folder: the root.
        resolution: the shorter side of every image, scaled to it; None leaves images alone.
        class_names: classes in the order of their numbers; None counts the folders, sorted by name.

    Raises:
        DataError: see `find_files`, `held_out` and `read_header`.
    """
    root = expanded(folder, "an image folder").absolute()
    files: Files = find_files(root)
    names = tuple(sorted(files["train"]) if class_names is None else class_names)
    check_classes(root, files, names)
    missing = [split for split in SPLITS if split not in files]
    identity = _digest(root, files)
    if missing:
        files = {**files, **held_out(files["train"], missing)}
    headers = _headers(root, files)
    channels = 1 if all(header.gray for header in headers) else 3
    size = _common_size(headers, resolution)
    number_of = {name: number for number, name in enumerate(names)}
    sources = {}
    for split in SPLITS:
        rows = [(path, number_of[c]) for c, paths in files[split].items() for path in paths]
        paths, labels = [path for path, _ in rows], np.array([row[1] for row in rows], np.int32)
        source = FolderImages(
            str(root), paths, labels, channels=channels, size=size, resolution=resolution
        )
        sources[split] = kept_if_small(source, None if size is None else (*size, channels))
    mean, std = channel_statistics(sources["train"], channels)
    return ImageSet(
        name="folder",
        task="classification",
        **sources,
        class_names=names,
        mean=mean,
        std=std,
        shape=(*(size or (None, None)), channels),
        identity=f"folder 1, sha256 {identity}, resolution {resolution}",
    )


def _digest(root: Path, files: Files) -> str:
    """Names the files and their sizes, wherever the root lies."""
    digest = hashlib.sha256()
    for classes in files.values():
        for paths in classes.values():
            for path in paths:
                try:
                    size = os.path.getsize(root / path)
                except OSError as error:
                    raise _unreadable(str(root / path), error) from error
                digest.update(f"{Path(path).as_posix()!r} {size}\n".encode())
    return digest.hexdigest()[:16]


def _headers(root: Path, files: Files) -> set[Header]:
    """The kinds of images that there are."""
    from PIL.Image import DecompressionBombWarning

    headers: set[Header] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DecompressionBombWarning)  # they are refused
        for classes in files.values():
            for paths in classes.values():
                headers.update(_header(str(root / path)) for path in paths)
    return headers


def _header(path: str) -> Header:
    try:
        with open(path, "rb") as stream:
            return read_header(stream, _name(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _common_size(headers: set[Header], resolution: int | None) -> Size | None:
    sizes = {(header.height, header.width) for header in headers}
    if resolution is not None:
        sizes = {scaled_to_shorter_side(*size, resolution) for size in sizes}
    return sizes.pop() if len(sizes) == 1 else None


def _name(path: str) -> str:
    return f"the image {path!r}"


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(
        f"{_name(path)} cannot be read ({error.strerror}): make it readable, or take it out"
    )
