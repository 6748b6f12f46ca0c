"""Flax NNX layers: the equilibrium layer and the parts that cells and language models are made of.

What does not depend on z (weights after normalization, dropout masks, positions) is computed once
before a solve: :class:`Weight` and :class:`DropoutMask` return arrays for that purpose, and
:func:`relative_attention` takes arrays only.
"""

from deqjax.nn._adaptive_embedding import AdaptiveEmbedding
from deqjax.nn._adaptive_softmax import AdaptiveSoftmax
from deqjax.nn._deq import DEQ
from deqjax.nn._freeze import CellStateError, freeze, reseed
from deqjax.nn._masks import DropoutMask, masked
from deqjax.nn._relative_attention import (
    distance_codes,
    relative_attention,
    relative_shift,
    visible,
)
from deqjax.nn._weight import Weight

__all__ = [
    "DEQ",
    "AdaptiveEmbedding",
    "AdaptiveSoftmax",
    "CellStateError",
    "DropoutMask",
    "Weight",
    "distance_codes",
    "freeze",
    "masked",
    "relative_attention",
    "relative_shift",
    "reseed",
    "visible",
]
