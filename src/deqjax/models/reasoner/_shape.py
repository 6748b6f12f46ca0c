"""Sizes and options of the equilibrium reasoner."""

import dataclasses
import math
from typing import Literal

from deqjax._ranges import Layers, NotNegative, Positive, PositiveShare, Size, Steps, Tokens, Width


@dataclasses.dataclass(frozen=True)
class ReasonerShape:
    """What a reasoner looks like; a puzzle is a row of tokens, or a board of them row by row.

    Attributes:
        tokens: number of tokens; None is counted from the data by a training run, and a model that
            is built by itself needs it.
        length: tokens of a puzzle, N; None is counted likewise. Only the mixing "mlp" fixes it:
            with attention a trained model takes longer puzzles, too.
        board: rows and columns of "rotary_2d"; None is counted likewise.
        width: features per token, D.
        heads: attention heads; divide the width.
        layers: of the level that both states share.
        expansion: features inside a gated feed-forward are 2/3 of so many times its width, ...
        multiple: ... rounded up to a multiple of this.
        inner_steps: updates of the low state in a cycle, L.
        damping: length of a level's step, lambda; 1 is undamped.
        noise: deviation of the normal noise that a level adds in training mode.
        positions: "rotary" turns queries and keys by the token's number, "rotary_2d" one half of a
            head by its row and the other by its column.
        rotary_base: of the angles.
        mixing: what connects tokens: attention, or a gated feed-forward over the positions.
        norm_eps: added to the mean square before its root is taken.
        start_deviations: of the random starts of the high and the low state.
        dtype: of matrix products; states, norms and parameters stay float32.
    """

    tokens: Tokens | None = None
    length: Size | None = None
    board: tuple[Size, Size] | None = None
    width: Width = 128
    heads: Width = 4
    layers: Layers = 2
    expansion: Positive = 4.0
    multiple: Width = 256
    inner_steps: Steps = 6
    damping: PositiveShare = 0.95
    noise: NotNegative = 0.0
    positions: Literal["rotary", "rotary_2d", "none"] = "rotary"
    rotary_base: Positive = 10_000.0
    mixing: Literal["attention", "mlp"] = "attention"
    norm_eps: Positive = 1e-5
    start_deviations: tuple[NotNegative, NotNegative] = (1.0, 1.0)
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def vocabulary(self) -> int:
        """The number of tokens.

        Raises:
            ValueError: it is not known.
        """
        if self.tokens is None:
            raise ValueError("tokens is not known; give the number of different tokens.")
        return self.tokens

    def hidden(self, width: int) -> int:
        """Features inside a gated feed-forward that is so wide outside."""
        wanted = round(self.expansion * width * 2 / 3)
        return math.ceil(wanted / self.multiple) * self.multiple

    def check(self) -> None:
        """Raise a ValueError for sizes that do not go together, as far as they are known."""
        head, odd = divmod(self.width, self.heads)
        if odd:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}.")
        parts = {"rotary": 2, "rotary_2d": 4, "none": 1}[self.positions]
        if self.mixing == "attention" and head % parts:
            raise ValueError(
                f"positions {self.positions!r} need heads whose width is a multiple of {parts}, "
                f"got width {self.width} / heads {self.heads} = {head}."
            )
        if self.board is not None and self.length not in (None, math.prod(self.board)):
            raise ValueError(
                f"a board of {self.board[0]} x {self.board[1]} has {math.prod(self.board)} tokens, "
                f"but length is {self.length}; leave one of them out."
            )

    @property
    def side(self) -> int:
        """The number of tokens that the mixing "mlp" connects.

        Raises:
            ValueError: it is not known.
        """
        length = self.length if self.board is None else math.prod(self.board)
        if length is None:
            raise ValueError("mixing 'mlp' needs the length of a puzzle; give length.")
        return length
