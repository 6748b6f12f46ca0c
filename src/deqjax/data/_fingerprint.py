"""A name for everything that decides the training batches."""

import hashlib
import json
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deqjax.data._windows import check_tokens

# Part of the fingerprint: raise it whenever the same arguments begin to give other batches.
_PIPELINE_VERSION = 1


def fingerprint(
    tokens: NDArray[np.integer],
    *,
    length: int,
    batch_size: int,
    seed: int,
    process_count: int = 1,
    order: Literal["shuffled", "stream"] = "shuffled",
) -> str:
    """Names everything that decides the training batches, in 16 hexadecimal digits.

    A position in the stream means something only in the same stream: training keeps this beside
    the position and refuses to resume when it differs.

    Args:
        tokens: (tokens,) of any integer dtype; the dtype counts as well.
        length: predicted tokens in a row.
        batch_size: rows in a batch, over all processes together.
        seed: of the order; `stream_batches` draws nothing, so it does not count there.
        process_count: how many processes share each batch.
        order: "shuffled" for `train_batches`, "stream" for `stream_batches`.

    Raises:
        DataError: `tokens` is no vector of integers that fit into int32.
    """
    check_tokens(tokens)
    values: dict[str, int | str] = {
        "version": _PIPELINE_VERSION,
        "length": length,
        "batch_size": batch_size,
        "process_count": process_count,
    }
    # What the first version had not is named only where it differs from it: fingerprints in
    # checkpoints stay valid.
    if order == "shuffled":
        values["seed"] = seed
    else:
        values["order"] = order
    if tokens.dtype != np.uint8:
        values["dtype"] = tokens.dtype.str
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(tokens).data)
    return digest.hexdigest()[:16]
