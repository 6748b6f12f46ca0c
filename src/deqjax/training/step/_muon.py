"""Muon for the matrices of hidden layers, and which parameters these are."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.tree_util import DictKey, KeyPath
from optax.contrib import MuonDimensionNumbers

from deqjax.training._options import OptimizerConfig

_EMBEDDINGS = ("embed", "embedding", "embeddings")
_HEADS = ("head", "classifier", "logits", "output", "readout", "softmax")
_VECTORS = ("bias", "biases", "gain", "gains", "scale", "scales")
_KERNELS = ("kernel", "kernels", "weight", "weights")
_RMS = 0.2  # of AdamW's updates, about (Liu et al. 2025, section 2.2)


def muon(
    config: OptimizerConfig, rate: optax.Schedule, others: optax.GradientTransformation
) -> optax.GradientTransformation:
    r"""Muon for the matrices of hidden layers, another optimizer for all other parameters.

    Of a matrix W (m, n) with gradient G, momentum beta and learning rate r,

        M <- beta M + (1 - beta) G,    N = M, or beta M + (1 - beta) G by Nesterov's rule,
        W <- W - r (0.2 sqrt(max(m, n)) O(N) + weight_decay W),

    both terms of N corrected for their start at 0; O(N) is U V^T of N's singular value
    decomposition U S V^T, but for a factor of about 0.7 to 1.2 on each singular value, by five
    steps of Newton and Schulz. Muon is by Jordan et al. 2024 (kellerjordan.github.io/posts/muon);
    the factor before O, which makes updates as large as AdamW's so that one learning rate and one
    weight decay serve both, is by Liu et al. 2025, arXiv 2502.16982. Optax computes it
    (``optax.contrib.muon``). State: one array as large as W, half of Adam's. Cost: at most
    30 min(m, n) m n floating-point operations a step.

    Args:
        config: ``muon_momentum``, ``nesterov`` and ``weight_decay``.
        rate: step -> learning rate.
        others: the optimizer of everything that `matrix_axes` says None to.
    """
    matrices = optax.contrib.muon(
        rate,
        beta=config.muon_momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=_axes_of_all,
        consistent_rms=_RMS,
    )
    return optax.partition({"muon": matrices, "others": others}, _labels)


def matrix_axes(names: Sequence[str], shape: Sequence[int]) -> MuonDimensionNumbers | None:
    """Which axes of a parameter make the matrix that Muon sees, None if it is not Muon's.

    Muon is for matrices of hidden layers. Not its own are

    - embeddings and output heads: a parameter that is called, or lies in a module that is called,
      embed, embedding, head, classifier, logits, output, readout or softmax. Of a longer name the
      last word counts (``token_embedding``, ``lm_head``, Linen's ``LMHead_0``), not its number;
    - what is called bias, gain or scale, however many axes it has (those of stacked layers);
    - vectors, numbers, and matrices with a single row or column.

    All other matrices (in, out) are its own. Of arrays with more axes they are those called kernel
    or weight:

    - (in, heads, size) in ``query``, ``key`` or ``value`` and (heads, size, out) in ``out``, as
      Flax's attention has them, are the matrices (in, heads size) and (heads size, out);
    - others with three axes are stacks (layers, in, out), each matrix by itself; so is each tap of
      a convolution over one axis;
    - four axes and more are convolutions (..., in, out), the matrix (all but the last, out).

    Args:
        names: of the modules that it lies in, from the outermost, and its own, the last.
        shape: of the parameter.

    Returns:
        Its axes of inputs and of outputs; the others count a stack.
    """
    words = [_last_word(name) for name in names]
    own = words[-1] if words else ""
    if own in _VECTORS or not {*_EMBEDDINGS, *_HEADS}.isdisjoint(words):
        return None
    if len(shape) < 2 or (len(shape) > 2 and own not in _KERNELS):
        return None
    axes = _axes_of_kernel(len(shape), names[-2] if len(names) > 1 else "")
    if 1 in (math.prod(shape[axis] for axis in side) for side in axes):
        return None
    return MuonDimensionNumbers(*axes)


def _axes_of_kernel(count: int, module: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of inputs and of outputs, of so many, by the name of the module they are in."""
    if count == 3 and module in ("query", "key", "value"):
        return (0,), (1, 2)
    if count == 3 and module == "out":
        return (0, 1), (2,)
    if count == 3:
        return (1,), (2,)
    return tuple(range(count - 1)), (count - 1,)


def _last_word(name: str) -> str:
    """Of snake_case or CamelCase, in small letters: "head" of "LMHead_0"."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return words[-1].lower() if words else ""


def _axes(path: KeyPath, parameter: Any) -> MuonDimensionNumbers | None:
    # an NNX Variable's own key is none of a mapping
    names = [str(key.key) for key in path if isinstance(key, DictKey)]
    return matrix_axes(names, parameter.shape)


def _axes_of_all(parameters: optax.Params) -> Any:
    return jax.tree_util.tree_map_with_path(_axes, parameters)


def _labels(parameters: optax.Params) -> Any:
    def label(path: KeyPath, parameter: Any) -> str:
        return "others" if _axes(path, parameter) is None else "muon"

    return jax.tree_util.tree_map_with_path(label, parameters)
