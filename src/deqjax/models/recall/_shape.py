"""Sizes of the recurrent convolutional network."""

import dataclasses

from deqjax._ranges import Layers, NotNegative, Positive, Size, Tokens, Width


@dataclasses.dataclass(frozen=True)
class RecallShape:
    """What a recall network looks like. It takes sequences of any length.

    Attributes:
        tokens: number of tokens; None is counted from the data by a training run, and a model that
            is built by itself needs it.
        width: features per position.
        blocks: of an iteration, or of an explicit network.
        kernel: positions that one convolution sees.
        causal: whether a position sees those before it alone, and not as many behind it.
        branch_scale: deviation of the first weights of the convolution that a block adds, relative
            to LeCun's.
        norm_eps: added to the mean square before its root is taken.
    """

    tokens: Tokens | None = None
    width: Width = 32
    blocks: Layers = 1
    kernel: Size = 3
    causal: bool = False
    branch_scale: NotNegative = 0.5
    norm_eps: Positive = 1e-5

    @property
    def vocabulary(self) -> int:
        """The number of tokens.

        Raises:
            ValueError: it is not known.
        """
        if self.tokens is None:
            raise ValueError("tokens is not known; give the number of different tokens.")
        return self.tokens
