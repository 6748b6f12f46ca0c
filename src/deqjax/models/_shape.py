"""Sizes and options of the language models."""

import dataclasses
from typing import Annotated

from annotated_types import Interval

from deqjax._ranges import Count, NotNegative, Rate, Size, Tokens, Width
from deqjax.models._precision import Precision


@dataclasses.dataclass(frozen=True)
class LanguageShape:
    """What all language models have: tokens in, a softmax out, segments with a memory.

    Attributes:
        vocabulary: number of tokens, 256 for bytes; None is counted from the data by a training
            run, and a model that is built by itself needs it.
        length: tokens of a training segment.
        memory_length: positions before a segment whose states are kept for it, without gradient.
        width: features per position, D.
        embedding_width: features of the first cluster's embedding; None is the width.
        cutoffs: first tokens of the clusters after the first; empty for one cluster.
        divisor: cluster i's embedding is embedding_width / divisor^i wide.
        tie_weights: whether embedding and softmax share their tables.
        tie_projections: for each cluster, whether they share the projection; empty for none.
        weight_norm: weight normalization of the layer's matrices.
        dropout: rate on the embedding, inside the layer and before the softmax; one mask for all
            positions.
        weight_scale: standard deviation of the layer's initial weights relative to LeCun's; smaller
            weights make the injection strong against z, and the start more contractive.
        dtype: of the layer's matrix products; states, norms, softmax and parameters stay float32.
            "mixed" solves with bfloat16 as far as it goes, and with float32 from there
            ([`mixed_precision`][deqjax.solvers.mixed_precision]).
    """

    vocabulary: Tokens | None = None
    length: Size = 64
    memory_length: Annotated[int, Interval(ge=0, le=65_536)] = 0
    width: Width = 128
    embedding_width: Width | None = None
    cutoffs: tuple[Tokens, ...] = ()
    divisor: Size = 1
    tie_weights: bool = True
    tie_projections: tuple[bool, ...] = ()
    weight_norm: bool = False
    dropout: Rate = 0.0
    weight_scale: NotNegative = 1.0
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


@dataclasses.dataclass(frozen=True)
class TransformerShape(LanguageShape):
    """What a Transformer language model looks like.

    Attributes:
        heads: attention heads; divide the width.
        hidden: features inside the feed-forward.
        pre_layer_norm: whether layer norm precedes attention and feed-forward, or follows them.
        horizon: how many positions a query sees at most, itself included.
        residual_injection: whether the injection enters the residual stream too, beside queries,
            keys and values; a stronger hold on z than that of the published models.
        attention_dropout: rate on the attention weights.
    """

    heads: Width = 4
    hidden: Size = 512
    pre_layer_norm: bool = False
    horizon: Count = 1000
    residual_injection: bool = True
    attention_dropout: Rate = 0.0
