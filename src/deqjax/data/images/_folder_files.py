"""Finds the images of a folder of one's own: root/SPLIT/CLASS/IMAGE."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from deqjax.data.images._images import SPLITS
from deqjax.data.pipeline import DataError

Files: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]
"""Paths below the root, by split and class, sorted by name."""

_SHAPE = "images lie in train/CLASS of it, one folder a class"


def find_files(root: Path) -> dict[str, dict[str, list[str]]]:
    """The files of every split that the folder has, by class.

    Hidden files and folders are passed over; nothing else that is no image of a class.

    Raises:
        DataError: the folder cannot be read, has no training images of two classes, or has
            something in a place where it would go unseen.
    """
    found = {}
    for split in _folders(root, root):
        if split not in SPLITS:
            raise DataError(
                f"{split!r} in the image folder {str(root)!r} is none of {', '.join(SPLITS)}: "
                "rename it, or take it out"
            )
        classes = _folders(root, root / split, files=False)
        found[split] = {label: _files(root, root / split / label) for label in classes}
    if not found.get("train"):
        raise DataError(f"the image folder {str(root)!r} has no classes: {_SHAPE}")
    if len(found["train"]) < 2:
        raise DataError(
            f"the image folder {str(root)!r} has only the class {min(found['train'])!r} in train, "
            f"which leaves nothing to tell apart: {_SHAPE}"
        )
    return found


def check_classes(root: Path, files: Files, class_names: Sequence[str]) -> None:
    """Refuses files of classes that are not among these.

    Raises:
        DataError: it names the first one.
    """
    for split, classes in files.items():
        for label in classes:
            if label not in class_names:
                raise DataError(
                    f"the class {label!r} in {split} of the image folder {str(root)!r} is none of "
                    f"the {len(class_names)} that are told apart: take it out, or train anew"
                )


def _folders(root: Path, folder: Path, *, files: bool = True) -> list[str]:
    """The names of the folders in a folder; `files`: whether others may lie beside them."""
    names = []
    for entry in _entries(root, folder):
        if entry.is_dir():
            names.append(entry.name)
        elif not files:
            raise DataError(
                f"{entry.path!r} lies in no class of the image folder {str(root)!r}: {_SHAPE}"
            )
    return names


def _files(root: Path, folder: Path) -> list[str]:
    from PIL import Image

    readable = Image.registered_extensions()
    names = []
    for entry in _entries(root, folder):
        if not entry.is_file() or os.path.splitext(entry.name)[1].lower() not in readable:
            raise DataError(
                f"{entry.path!r} in the image folder {str(root)!r} is no image file: take it out"
            )
        names.append(entry.name)
    if not names:
        raise DataError(
            f"the class folder {str(folder)!r} has no images: put some into it, or take it out"
        )
    below = folder.relative_to(root)
    return [str(below / name) for name in names]


def _entries(root: Path, folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"the image folder {str(folder)!r} cannot be read ({error.strerror}): give a folder "
            f"whose {_SHAPE}"
        ) from error
    return sorted(shown, key=lambda entry: entry.name)
