"""What is held out of the training images where a data set has no validation or test of its own."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deqjax.data.pipeline import DataError

_ONE_IN = 10  # of the training images, for each split that is missing


def held_out(
    members: Mapping[str, Sequence[str]], missing: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Deals out the training images of every class: a tenth to each missing split, at least one.

    Which ones, a hash of their names decides, once and for all: hardly any changes its split when
    others are added, so that an older run is not scored on what it was trained on.

    Args:
        members: names of the training images of each class.
        missing: splits that are to be held out.

    Returns:
        Names by split ("train" and the missing ones) and class, in their former order.

    Raises:
        DataError: a class has too few images.
    """
    parts: dict[str, dict[str, list[str]]] = {split: {} for split in ("train", *missing)}
    for label, names in members.items():
        if len(names) <= len(missing):
            raise DataError(
                f"the class {label!r} has {len(names)} training image(s), too few to hold out one "
                f"each for {' and '.join(missing)}: add images, or folders for these splits"
            )
        share = max(1, round(len(names) / _ONE_IN))
        ranked = sorted(names, key=_rank)
        for number, split in enumerate(missing):
            chosen = set(ranked[number * share : (number + 1) * share])
            parts[split][label] = [name for name in names if name in chosen]
        rest = set(ranked[len(missing) * share :])
        parts["train"][label] = [name for name in names if name in rest]
    return parts


def held_out_numbers(total: int, missing: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    """The same of training images that have only numbers, at random, whatever their classes are.

    Args:
        total: training images.
        missing: splits that are to be held out.

    Returns:
        Sorted numbers below `total` by split ("train" and the missing ones).

    Raises:
        DataError: there are too few images.
    """
    share = max(1, round(total / _ONE_IN))
    if total <= len(missing) * share:
        raise DataError(
            f"there are {total} training images, too few to hold out {share} each for "
            f"{' and '.join(missing)}: take another data set"
        )
    # NumPy promises to keep the numbers of this generator, not those of the newer ones.
    order = np.random.RandomState(0).permutation(total)
    cuts = np.arange(1, len(missing) + 1) * share
    parts = zip((*missing, "train"), np.split(order, cuts), strict=True)
    return {split: np.sort(part) for split, part in parts}


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()
