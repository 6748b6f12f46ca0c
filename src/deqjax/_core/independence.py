"""A debug check: does a sample of f depend on another one?"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqjax._core import algebra
from deqjax._core.types import Map, PerSample, State

_WAY_OUT = {
    "row": (
        "rows depend on each other, but each is solved as a sample of its own; give coupled=True "
        "if the whole state is one sample, segments= if the rows are nodes of graphs, or normalize "
        "per sample"
    ),
    "graph": (
        "graphs depend on each other, but each is solved as a sample of its own; leave out the "
        "edges between them, or give them one id in segments="
    ),
}
_ROUNDING = 8  # changes of fewer units in the last place of the largest number are none


class CoupledRowsError(RuntimeError):
    """f lets samples depend on each other that are solved apart."""


def check_independent(f: Map, z: State, args: tuple[Any, ...], sample: str) -> None:
    """Perturb a random half of the samples, then the other half; raise if any of the rest change.

    The change is of the size of the state, so it shows through saturation, too. Each pair of
    samples falls into different halves with probability one half or more, always the same ones.
    Outside jit this raises `CoupledRowsError` at once; inside, when the compiled function runs.

    Args:
        f: as the core has it.
        z: start, leaves (batch, ...).
        args: as for f.
        sample: what a sample is called, "row" or "graph".
    """
    batch = algebra.batch_size(z)
    if batch == 1:
        return
    # f(z), not z: at a start of zeros a product of samples shows nothing
    point = f(z, *args)
    image = f(point, *args)
    other = _elsewhere(point)
    half = np.zeros(batch, bool)
    half[np.random.default_rng(0).permutation(batch)[: batch // 2]] = True
    changed = jnp.zeros(batch, bool)
    for moved in (half, ~half):
        after = f(algebra.select(jnp.asarray(moved), other, point), *args)
        changed |= _changed(image, after) & ~moved
    if isinstance(changed, jax.core.Tracer):
        jax.debug.callback(lambda found: _report(found, sample), changed)
    else:
        _report(changed, sample)


def _elsewhere(state: State) -> State:
    """The state moved by random numbers of its own size, the same in every call."""
    rng = np.random.default_rng(1)

    def move(leaf: jax.Array) -> jax.Array:
        noise = jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        return leaf + noise * (jnp.abs(leaf) + jnp.asarray(0.5, leaf.dtype))

    return jax.tree.map(move, state)


def _changed(one: State, other: State) -> PerSample:
    """(batch,) bool, by more than rounding."""
    found = jnp.zeros(algebra.batch_size(one), bool)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        size = jnp.max(jnp.where(jnp.isfinite(a), jnp.abs(a), 0))
        least = jnp.asarray(_ROUNDING * float(jnp.finfo(a.dtype).eps), a.dtype) * size
        # NaN where there was NaN is no change, but NaN where there was none is one
        differs = ~(jnp.abs(a - b) <= least) & (a != b) & ~(jnp.isnan(a) & jnp.isnan(b))
        found |= jnp.any(algebra.flat(differs), axis=1)
    return found


def _report(changed: Any, sample: str) -> None:
    rows = np.flatnonzero(changed)
    if rows.size:
        named = ", ".join(map(str, rows[:5])) + (", ..." if rows.size > 5 else "")
        raise CoupledRowsError(
            f"{_WAY_OUT[sample]} (of f's {sample}s {named} changed when others were perturbed)."
        )
