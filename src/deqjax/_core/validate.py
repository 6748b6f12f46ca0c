"""Checks at the boundary of a solve: one sentence for each mistake, before any compilation."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqjax._core.sharding import explicit_sharding, placed_like
from deqjax._core.types import Scalar, State


def check_problem(
    f: Callable[[State], State],
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    stop: str = "relative",
    norm: str = "state",
    min_steps: Scalar = 0,
    trace: int = 0,
) -> State:
    """Return z0 as arrays of settled dtype where f(z0) is, or raise an error of one sentence."""
    z0 = check_state(z0)
    check_limits(tol, max_steps, z0)
    check_per_sample("min_steps", min_steps, z0)
    check_count("min_steps", min_steps, least=0, single=False)
    for name, choice, known in (
        ("stop", stop, ("relative", "absolute")),
        ("norm", norm, ("state", "leaf")),
    ):
        if choice not in known:
            raise ValueError(f"{name} must be {known[0]!r} or {known[1]!r}, got {choice!r}.")
    if isinstance(trace, bool) or not isinstance(trace, int) or trace < 0:
        raise ValueError(
            f"trace must be the number of rows to record, a Python int >= 0, got {trace!r}."
        )
    return settled(f, z0)


def check_limits(tol: Scalar, max_steps: Scalar, z0: State) -> None:
    """Raise unless tol is >= 0 and max_steps a whole number >= 1, for all samples or each."""
    check_per_sample("tol", tol, z0)
    check_not_negative("tol", tol, single=False)
    check_per_sample("max_steps", max_steps, z0)
    check_count("max_steps", max_steps, single=False)


def check_per_sample(name: str, value: Scalar, z0: State) -> None:
    """Raise unless the value is one number, or one for each sample."""
    batch = len(jax.tree.leaves(z0)[0])
    if jnp.shape(value) not in ((), (batch,)):
        raise ValueError(
            f"{name} must be one number or one for each of the {batch} samples, got an array of "
            f"shape {jnp.shape(value)}."
        )


def check_returns(returns: str, *, rejects: bool, pairs: bool = False) -> None:
    """Raise unless the choice is known, and the method has such an iterate.

    Args:
        returns: the choice.
        rejects: whether the method takes trial steps.
        pairs: whether its states are pairs, of which f sees one half.
    """
    if returns not in ("best", "last", "image"):
        raise ValueError(f"returns must be 'best', 'last' or 'image', got {returns!r}.")
    if returns != "best" and rejects:
        raise ValueError(
            f"returns={returns!r} is not for a method that takes trial steps, since its last "
            "iterate may be one that it rejects: leave it out, or use picard, anderson or broyden "
            "without its line search."
        )
    if returns == "image" and pairs:
        raise ValueError(
            "returns='image' is not for reversible, whose backward pass starts from the pair that "
            "was measured: leave it out, or use picard or anderson."
        )


def check_trajectory(steps: tuple[int, ...]) -> None:
    """Raise unless the chosen steps are increasing Python ints >= 1."""
    whole = isinstance(steps, tuple) and all(type(step) is int and step >= 1 for step in steps)
    if not whole or any(a >= b for a, b in itertools.pairwise(steps)):
        raise ValueError(
            f"trajectory must be a tuple of increasing steps >= 1, as in (4, 8, 12), got {steps!r}."
        )


def check_checkpoint(every: int | None, differentiable: bool) -> None:
    """Raise unless checkpoints are spaced by a Python int >= 1, in a loop that has use for them."""
    if every is None:
        return
    if type(every) is not int or every < 1:
        raise ValueError(f"checkpoint_every must be a Python int >= 1 or None, got {every!r}.")
    if not differentiable:
        raise ValueError(
            f"checkpoint_every={every} needs differentiable=True: only an unrolled loop stores "
            "its passes."
        )


def check_state(z0: State) -> State:
    """Return z0 with array leaves of settled dtype; raise if it is no batch of real states."""
    z0 = settle(z0)
    check_batch(z0)
    return z0


def settle(z0: State, *, or_complex: bool = False) -> State:
    """Return z0 with array leaves of settled dtype; raise unless all are floating point."""
    paths, structure = jax.tree_util.tree_flatten_with_path(z0)
    if not paths:
        raise ValueError("z0 has no array leaves: give a pytree of arrays of shape (batch, ...).")
    leaves = []
    for path, value in paths:
        leaf, name = jnp.asarray(value), _name("z0", path)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"{name} has dtype {leaf.dtype}: a state must be floating point; "
                "pass integers and keys through args."
            )
        if jnp.iscomplexobj(leaf) and not or_complex:
            raise TypeError(
                f"{name} has dtype {leaf.dtype}: deqjax.fixed_point takes complex states, here "
                "they must be real."
            )
        # a weak type would change inside the loop, and a loop's carry may not
        leaves.append(jax.lax.convert_element_type(leaf, leaf.dtype))
    return jax.tree.unflatten(structure, leaves)


def check_batch(z0: State) -> None:
    """Raise unless all leaves have one batch as axis 0."""
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(z0):
        name = _name("z0", path)
        if leaf.ndim == 0:
            raise ValueError(
                f"{name} is a scalar: axis 0 of every leaf must be the batch; if the whole state "
                "is one sample, give fixed_point coupled=True."
            )
        sizes[name] = leaf.shape[0]
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"axis 0 of every leaf must be the same batch, got {sizes}; if the whole state is one "
            "sample, give fixed_point coupled=True."
        )
    if 0 in sizes.values():
        raise ValueError("z0 is an empty batch: axis 0 of its leaves has length 0.")


def check_patience(patience: int | None, returns: str = "best") -> None:
    """Raise unless it is None, or updates >= 1 in a solve that keeps the best iterate."""
    if patience is None:
        return
    if type(patience) is not int or patience < 1:
        raise ValueError(f"patience must be a Python int >= 1 or None, got {patience!r}.")
    if returns == "last":
        raise ValueError(
            f"patience={patience} waits for a better iterate than the best, which returns='last' "
            "does not keep: leave one of the two out."
        )


def settled(f: Callable[..., State], z0: State, *args: Any) -> State:
    """Return z0 on the devices where f(z0) is, or raise if f does not map states to themselves."""
    result = jax.eval_shape(f, z0, *args)
    check_map(result, z0)
    return placed_like(z0, result)


def check_map(result: State, z0: State) -> None:
    """Raise if f changed the structure, a shape or a dtype; ``result`` may be abstract."""
    before: object = jax.tree.structure(z0)
    after: object = jax.tree.structure(result)
    if before != after:
        raise TypeError(
            f"f changes the structure of z from {before} to {after}; return a state of z's "
            "structure; fixed_point takes (z, aux) with has_aux=True."
        )
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(z0), jax.tree.leaves(result), strict=True
    ):
        if old.shape != new.shape:
            raise ValueError(
                f"f changes the shape of {_name('z', path)} from {old.shape} to {new.shape}; "
                "a fixed point needs f(z) of the shape of z."
            )
        if old.dtype != new.dtype:
            raise TypeError(
                f"f changes the dtype of {_name('z', path)} from {old.dtype} to {new.dtype}; "
                f"cast f's result with .astype({old.dtype}) or start from a z0 of {new.dtype}."
            )
        before, after = explicit_sharding(old), explicit_sharding(new)
        if before is not None and any(before.spec) and before != after:
            raise TypeError(
                f"f changes the sharding of {_name('z', path)} from {before.spec} to "
                f"{after and after.spec}; end f with jax.sharding.reshard(z, {before.spec})."
            )


def static_steps(max_steps: Scalar) -> int:
    """``max_steps`` as a Python int, for a loop whose length is a shape."""
    if isinstance(max_steps, jax.Array):
        raise TypeError(
            "a differentiable loop needs max_steps as a Python int, because it is a shape; "
            "use an implicit adjoint to vary max_steps at run time."
        )
    return int(np.max(max_steps))


def check_count(name: str, value: Scalar, *, least: int = 1, single: bool = True) -> None:
    """Raise unless the value is a whole number >= least; a run-time value is taken as it is.

    Without ``single`` it may be an array of such numbers.
    """
    if single:
        _check_single(name, value)
    if isinstance(value, jax.Array):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"{name} must be a whole number, got an array of {value.dtype}.")
    elif np.any(np.floor(value) != value) or not np.all(np.isfinite(value)):
        raise TypeError(f"{name} must be a whole number, got {value}.")
    elif np.any(np.less(value, least)):
        raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_not_negative(name: str, value: Scalar, *, single: bool = True) -> None:
    """Raise if the value is negative or NaN; a run-time value is taken as it is."""
    if single:
        _check_single(name, value)
    # the value of a jax.Array stays unread: reading it would wait for the device, or is impossible
    if not isinstance(value, jax.Array) and not np.all(np.greater_equal(value, 0)):
        raise ValueError(f"{name} must be zero or positive, got {value}.")


def _check_single(name: str, value: Scalar) -> None:
    if jnp.ndim(value):
        raise ValueError(f"{name} must be one number, got an array of shape {jnp.shape(value)}.")


def _name(root: str, path: tuple[object, ...]) -> str:
    """The leaf as a user would write it: z['hidden'][0]."""
    return root + jax.tree_util.keystr(path)


def check_options(unknown: Iterable[str], known: Iterable[str]) -> None:
    """Raise if a solver was given an option that it does not have."""
    for name in unknown:
        raise TypeError(
            f"the solver has no option {name!r}; it takes {', '.join(known)}, and those of its "
            "own, which its docstring lists."
        )
