"""Flax NNX layers: the equilibrium layer and the parts that cells are made of."""

from deqjax.nn._deq import DEQ
from deqjax.nn._freeze import CellStateError, freeze, reseed
from deqjax.nn._transformer import FeedForward, SelfAttention

__all__ = ["DEQ", "CellStateError", "FeedForward", "SelfAttention", "freeze", "reseed"]
