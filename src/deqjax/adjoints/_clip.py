"""Bounding what is pulled back through f by the cotangent that it started from."""

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.types import Scalar, State
from deqjax._core.validate import check_not_negative


def check_clip(clip: Scalar | None) -> None:
    """Raise if the bound is negative or NaN, for all samples alike; a run-time value passes."""
    if clip is not None:
        check_not_negative("clip", clip)


def cut(pulled: State, cotangent: State, clip: Scalar | None) -> State:
    """Shorten each sample's pulled-back cotangent to at most clip times its cotangent's length.

    Differentiable in both: the norm's slope is infinite at zero, where nothing is cut, so that it
    is formed of other numbers there.
    """
    if clip is None:
        return pulled
    dtype = algebra.accumulation_dtype(pulled)
    bound = jnp.asarray(clip, dtype)
    still = lax.stop_gradient
    too_long = algebra.norm(still(pulled)) > bound * algebra.norm(still(cotangent))
    ones = jax.tree.map(jnp.ones_like, pulled)
    allowed = bound * algebra.norm(algebra.select(too_long, cotangent, ones))
    length = algebra.norm(algebra.select(too_long, pulled, ones))
    return algebra.rescale(pulled, jnp.where(too_long, allowed / length, 1))


@jax.custom_vjp
def cut_gradient(z: State, cotangent: State, clip: Scalar | None) -> State:
    """Return z; its own cotangent is cut on the way back."""
    del cotangent, clip
    return z


def _remember(z: State, cotangent: State, clip: Scalar | None) -> tuple[State, object]:
    return z, (cotangent, clip)


def _pull_back(remembered: tuple[State, Scalar | None], pulled: State) -> tuple[State, None, None]:
    return cut(pulled, *remembered), None, None


cut_gradient.defvjp(_remember, _pull_back)
