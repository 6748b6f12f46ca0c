"""A random part of a training split in which the classes keep the balance."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def balanced_indices(
    label: Callable[[int], NDArray[np.int32]], total: int, *, classes: int, count: int, seed: int
) -> NDArray[np.intp]:
    """`count` numbers below `total`, sorted, with equally many of every class.

    Where `classes` does not divide `count`, some classes have one more; where a class has too few,
    others fill its place. Labels are looked at in a random order until all are found: `count` of
    them and a few more, not the whole split.

    Args:
        label: the class of an example, ().
        total: examples.
        classes: kinds of labels.
        count: numbers to choose, at most `total`.
        seed: of the choice.
    """
    quota, extras = divmod(count, classes)
    taken = np.zeros(classes, int)
    chosen: list[int] = []
    left_over: list[int] = []
    for index in np.random.default_rng(seed).permutation(total).tolist():
        if len(chosen) == count:
            break
        found = int(label(index))
        extra = taken[found] == quota and extras > 0
        if taken[found] < quota or extra:
            extras -= int(extra)
            taken[found] += 1
            chosen.append(index)
        else:
            left_over.append(index)
    return np.sort(np.array(chosen + left_over[: count - len(chosen)], np.intp))
