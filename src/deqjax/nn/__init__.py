"""Flax NNX layers: the equilibrium layer and the parts that cells and language models are made of.

What does not depend on z (weights after normalization, dropout masks, positions) is computed once
before a solve: `Weight` and `DropoutMask` return arrays for that purpose, and
[`relative_attention`][deqjax.nn.relative_attention] takes arrays only.
"""

from deqjax.nn._adaptive_embedding import AdaptiveEmbedding
from deqjax.nn._adaptive_softmax import AdaptiveSoftmax
from deqjax.nn._attention import attention
from deqjax.nn._chunked_likelihood import token_logits, token_nll
from deqjax.nn._conv_batch_norm import ConvBatchNorm
from deqjax.nn._convolution import ConvWeight, convolve
from deqjax.nn._deq import DEQ
from deqjax.nn._divided import MODEL_AXIS, divided, is_divided
from deqjax.nn._freeze import CellStateError, freeze, reseed
from deqjax.nn._group_norm import Affine, GroupAffine, group_norm
from deqjax.nn._masks import DropoutMask, masked
from deqjax.nn._observe import Observation, ObservationError, ObservedSolve, observe
from deqjax.nn._operator_norm import convolution_norm_bound
from deqjax.nn._relative_attention import (
    distance_codes,
    relative_attention,
    relative_shift,
    visible,
)
from deqjax.nn._resampling import enlarge_nearest, resize_bilinear
from deqjax.nn._rms_norm import rms_norm
from deqjax.nn._rotary import rotary_angles, rotate
from deqjax.nn._stablemax import log_stablemax, stablemax_cross_entropy
from deqjax.nn._weight import Weight

__all__ = [
    "DEQ",
    "MODEL_AXIS",
    "AdaptiveEmbedding",
    "AdaptiveSoftmax",
    "Affine",
    "CellStateError",
    "ConvBatchNorm",
    "ConvWeight",
    "DropoutMask",
    "GroupAffine",
    "Observation",
    "ObservationError",
    "ObservedSolve",
    "Weight",
    "attention",
    "convolution_norm_bound",
    "convolve",
    "distance_codes",
    "divided",
    "enlarge_nearest",
    "freeze",
    "group_norm",
    "is_divided",
    "log_stablemax",
    "masked",
    "observe",
    "relative_attention",
    "relative_shift",
    "reseed",
    "resize_bilinear",
    "rms_norm",
    "rotary_angles",
    "rotate",
    "stablemax_cross_entropy",
    "token_logits",
    "token_nll",
    "visible",
]
