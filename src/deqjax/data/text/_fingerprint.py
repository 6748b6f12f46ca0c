"""What decides the training batches, as named values."""

import hashlib
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqjax.data.text._windows import check_tokens

# Raise it whenever the same arguments begin to give other batches.
_PIPELINE_VERSION = 1

Value: TypeAlias = int | float | str | list["Value"] | dict[str, "Value"] | None
Fingerprint: TypeAlias = dict[str, Value]
"""Named values that JSON gives back as they were."""


def fingerprint(
    tokens: NDArray[np.integer],
    *,
    length: int,
    batch_size: int,
    seed: int,
    order: Literal["shuffled", "stream"] = "shuffled",
) -> Fingerprint:
    """Names everything that decides the training batches.

    A position in the stream means something only in the same stream: training keeps this beside
    the position, and refuses to resume when a value differs. How many processes share a batch does
    not count: a position is valid for any number of them.

    Args:
        tokens: (tokens,) of any integer dtype; the dtype counts as well.
        length: predicted tokens in a row.
        batch_size: rows in a batch, over all processes together.
        seed: of the order; `stream_batches` draws nothing, so it does not count there.
        order: "shuffled" for `train_batches`, "stream" for `stream_batches`.

    Returns:
        "version" (of these pipelines), "order", "length", "batch_size", "seed" (None for a
        stream), "count" of tokens, and "tokens": 16 hexadecimal digits of the SHA-256 of their
        dtype and bytes.

    Raises:
        DataError: `tokens` is no vector of integers that fit into int32.
    """
    check_tokens(tokens)
    digest = hashlib.sha256(tokens.dtype.str.encode())
    digest.update(np.ascontiguousarray(tokens).data)
    return {
        "version": _PIPELINE_VERSION,
        "order": order,
        "length": length,
        "batch_size": batch_size,
        "seed": seed if order == "shuffled" else None,
        "count": tokens.size,
        "tokens": digest.hexdigest()[:16],
    }
