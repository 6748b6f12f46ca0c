"""Fixed-length windows over one long vector of bytes."""

import numpy as np
from numpy.typing import NDArray

from deqjax.data._errors import DataError


class ByteWindows:
    """Random access to windows of `length + 1` bytes: `length` inputs and their successors.

    Window i holds tokens[i * length : (i + 1) * length + 1]. Neighbors share one byte, the last
    target of one and the first input of the next, so every byte but the first is predicted in
    exactly one window. At most `length - 1` bytes at the very end fill no window and are left out.

    Attributes:
        length: predicted bytes in a window.
        view: (windows, length + 1) uint8, all windows; a view of the tokens, without a copy.
    """

    def __init__(self, tokens: NDArray[np.uint8], length: int) -> None:
        """Cuts `tokens`, (bytes,) uint8.

        Raises:
            DataError: `tokens` is no vector of uint8 or is shorter than one window, or `length`
                is below 1.
        """
        if tokens.ndim != 1 or tokens.dtype != np.uint8:
            raise DataError(
                f"tokens must be a vector of uint8, got {tokens.dtype} of shape {tokens.shape}"
            )
        if length < 1:
            raise DataError(f"length must be at least 1, got {length}")
        if tokens.size < length + 1:
            raise DataError(
                f"the corpus has {tokens.size} bytes, but one window of length {length} needs "
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
        return f"ByteWindows({len(self)} windows of length {self.length})"
