"""Sizes and options of the attractor language model."""

import dataclasses
from typing import Annotated, Literal, TypeAlias

from annotated_types import Interval

from deqjax._ranges import Layers, Positive, Size, Tokens, Width
from deqjax.models._precision import Precision

_Blocks = Annotated[int, Interval(ge=0, le=1_000)]

Nonlinearity: TypeAlias = Literal["relu2", "gelu", "silu"]
"""Of a feed-forward: 0.5 max(x, 0)^2, the exact GELU, or x sigmoid(x)."""


@dataclasses.dataclass(frozen=True)
class AttractorShape:
    """What an attractor language model looks like.

    Attributes:
        vocabulary: number of tokens, 256 for bytes; None is counted from the data by a training
            run, and a model that is built by itself needs it.
        padded_vocabulary: rows of the tables, at least the number of tokens; None is that number.
            The softmax is over all rows.
        length: tokens of a training segment.
        width: features per position.
        heads: heads of queries; divide the width.
        key_heads: heads of keys and values; divide the heads. None is as many.
        hidden: features inside a feed-forward.
        prelude_layers: blocks before the head, whose output is the context.
        head_layers: blocks of the head, which is solved; with 0 the model is a plain Transformer
            of the prelude, and solves nothing.
        feed_forward: nonlinearity.
        gated: whether a feed-forward is act(x W_u) * (x W_g), with twice the matrices inside.
        bias: whether linear layers have biases.
        query_key_norm: whether queries and keys are normalized, after the rotation.
        gate_bound: largest gate of a branch of the head, gamma_max.
        gate_start: gates at the start, at most their bound; None is no gates.
        norm_epsilon: of the RMS norms.
        rotary_base: of the rotary positions.
        tie_embeddings: whether embedding and softmax share their table.
        logit_softcap: logits are softcap * tanh(logits / softcap); None is the logits themselves.
        logit_scale: factor on the logits.
        embedding_scale: factor on the embedding.
        recompute: whether a block of the prelude keeps its input alone for the gradient and is
            applied again on the way back: memory for a third more of its time.
        dtype: of matrix products in the blocks; states, norms, softmax and parameters stay float32.
            "mixed" solves with bfloat16 as far as it goes, and with float32 from there
            ([`mixed_precision`][deqjax.solvers.mixed_precision]).
    """

    vocabulary: Tokens | None = None
    padded_vocabulary: Tokens | None = None
    length: Size = 64
    width: Width = 128
    heads: Width = 4
    key_heads: Width | None = None
    hidden: Size = 512
    prelude_layers: Layers = 3
    head_layers: _Blocks = 1
    feed_forward: Nonlinearity = "relu2"
    gated: bool = False
    bias: bool = False
    query_key_norm: bool = True
    gate_bound: Positive = 0.75
    gate_start: Positive | None = 0.75
    norm_epsilon: Positive = 1e-5
    rotary_base: Positive = 10_000.0
    tie_embeddings: bool = True
    logit_softcap: Positive | None = None
    logit_scale: Positive = 1.0
    embedding_scale: Positive = 1.0
    recompute: bool = False
    dtype: Precision = "float32"

    @property
    def tokens(self) -> int:
        """The number of tokens.

        Raises:
            ValueError: it is not known.
        """
        if self.vocabulary is None:
            raise ValueError("vocabulary is not known; give the number of tokens, 256 for bytes.")
        return self.vocabulary

    @property
    def rows(self) -> int:
        """Rows of the tables.

        Raises:
            ValueError: the number of tokens is not known.
        """
        return self.tokens if self.padded_vocabulary is None else self.padded_vocabulary

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.key_heads is None else self.key_heads

    @property
    def head_width(self) -> int:
        """Features of a head."""
        return self.width // self.heads

    @property
    def blocks(self) -> int:
        """Blocks of prelude and head, each of which remembers keys and values."""
        return self.prelude_layers + self.head_layers

    def check(self) -> None:
        """Raise a ValueError for sizes that do not go together."""
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}.")
        if self.head_width % 2:
            raise ValueError(
                f"width {self.width} over heads {self.heads} is {self.head_width}, but rotary "
                "positions need an even number."
            )
        if self.heads % self.groups:
            raise ValueError(f"heads {self.heads} must be a multiple of key_heads {self.groups}.")
        if self.gate_start is not None and self.gate_start > self.gate_bound:
            raise ValueError(
                f"gate_start {self.gate_start} must be at most gate_bound {self.gate_bound}."
            )
        if self.vocabulary is not None and self.rows < self.vocabulary:
            raise ValueError(
                f"padded_vocabulary {self.rows} must be at least the vocabulary {self.vocabulary}."
            )
        if self.head_layers == 0 and self.dtype == "mixed":
            raise ValueError(
                "dtype 'mixed' is a way to solve, and without head_layers nothing is solved."
            )
