"""Fixed-length windows over one long vector of tokens."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqjax.data.pipeline import DataError

_LARGEST = np.iinfo(np.int32).max


class Windows:
    """Random access to windows of `length + 1` tokens: `length` inputs and their successors.

    Window i holds tokens[i * length : (i + 1) * length + 1]. Neighbors share one token, the last
    target of one and the first input of the next, so every token but the first is predicted in
    exactly one window. At most `length - 1` tokens at the very end fill no window and are left out.

    Attributes:
        length: predicted tokens in a window.
        view: (windows, length + 1) of the tokens' dtype, all windows; a view, without a copy.
    """

    def __init__(self, tokens: NDArray[np.integer], length: int) -> None:
        """Cuts `tokens`, (tokens,) of any integer dtype.

        Raises:
            DataError: `tokens` is no vector of integers or is shorter than one window, a token
                does not fit into int32, or `length` is below 1.
        """
        check_tokens(tokens)
        check_length(length)
        if tokens.size < length + 1:
            raise DataError(
                f"the corpus has {tokens.size} tokens, but one window of length {length} needs "
                f"{length + 1}: choose a shorter length"
            )
        self.length = length
        self.view = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::length]

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int | NDArray[np.integer]) -> NDArray[np.int32]:
        """The window(s) at `index`: index.shape + (length + 1,) int32."""
        chosen: NDArray[np.int32] = self.view[index].astype(np.int32)
        return chosen

    def __repr__(self) -> str:
        return f"Windows({len(self)} windows of length {self.length})"


def check_tokens(tokens: NDArray[Any]) -> None:
    """Refuses what is no vector of integers that fit into int32.

    Raises:
        DataError: `tokens` is something else.
    """
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(
            f"tokens must be a vector of integers, got {tokens.dtype} of shape {tokens.shape}"
        )
    # Only wide types can hold more: the usual ones are spared the pass over all tokens.
    if np.iinfo(tokens.dtype).max > _LARGEST and tokens.size and tokens.max() > _LARGEST:
        raise DataError(f"token {tokens.max()} does not fit into int32, the type of all batches")


def check_length(length: int) -> None:
    """Refuses a length without a predicted token.

    Raises:
        DataError: `length` is below 1.
    """
    if length < 1:
        raise DataError(f"length must be at least 1, got {length}")
