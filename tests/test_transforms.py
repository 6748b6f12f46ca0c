"""One table: every transform, every solver, every rule, against a dense solve in float64.

Each transform runs with the implicit rule, and with every other rule that claims it, which between
them solve with Picard, Broyden and the reversible method. The other solvers run where their own
code is transformed. The truth is Newton's method with dense systems, which JAX differentiates
plainly.
"""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import deqjax as dq
from deqjax.adjoints import (
    implicit,
    jacobian_free,
    neumann,
    phantom,
    shine,
    unrolled,
)
from deqjax.adjoints import reversible as undone
from deqjax.solvers import anderson, broyden, gmres, newton_krylov, picard, reversible

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

BATCH, SIZE, DEVICES = 4, 3, 4
RNG = np.random.default_rng(0)
WEIGHT = np.array([[0.2, -0.1, 0.1], [0.1, 0.2, -0.1], [0.1, 0.0, 0.15]])
INPUT = RNG.normal(size=(BATCH, SIZE))
TANGENTS = RNG.normal(size=WEIGHT.shape), RNG.normal(size=INPUT.shape)


def layer(z, weight, x):
    return jnp.tanh(z @ weight + x)


def newton(weight, x):
    """The fixed point, to rounding, written so that JAX differentiates every step."""

    def step(z, _):
        image = layer(z, weight, x)
        system = jnp.eye(SIZE)[None] - (1 - image**2)[:, :, None] * weight.T[None]
        return z + jnp.linalg.solve(system, (image - z)[:, :, None])[:, :, 0], None

    return lax.scan(step, jnp.zeros_like(x), length=7)[0]


def one_evaluation(weight, x):
    """What `jacobian_free` differentiates."""
    return layer(lax.stop_gradient(newton(weight, x)), weight, x)


def solved(weight, x, *, solver, adjoint, max_steps=30):
    return dq.fixed_point(
        layer, jnp.zeros_like(x), weight, x, solver=solver, adjoint=adjoint, tol=1e-10,
        max_steps=max_steps,
    ).value  # fmt: skip


def total(solve):
    return lambda *operands: jnp.sum(solve(*operands) ** 3)


def gradient(solve):
    return jax.grad(total(solve), argnums=(0, 1))


def push(function):
    """The derivative along fixed tangents of both operands."""

    def pushed(*operands):
        tangents = tuple(map(jnp.asarray, TANGENTS))
        return jax.jvp(function, operands, tangents)[1]

    return pushed


def along(function):
    """The inner product of a function's two results with the fixed tangents."""
    return lambda *operands: sum(
        jnp.sum(a * b) for a, b in zip(function(*operands), TANGENTS, strict=True)
    )


def halves(x):
    return x.reshape(2, -1, *x.shape[1:])


def whole(grads):
    return grads[0], grads[1].reshape(INPUT.shape)


# what is computed from a solve(weight, x); the truth is the same of Newton's
DERIVED = {
    "value": lambda solve: solve,
    "vjp": gradient,
    "jvp": lambda solve: push(total(solve)),
    "jvp of vjp": lambda solve: push(gradient(solve)),
    "vjp of jvp": lambda solve: jax.grad(push(total(solve)), argnums=(0, 1)),
    "vjp of vjp": lambda solve: jax.grad(along(gradient(solve)), argnums=(0, 1)),
    "vmap": lambda solve: lambda w, x: jax.vmap(solve, (None, 0))(w, halves(x)),
    "vmap of grad": lambda solve: lambda w, x: jax.vmap(gradient(solve), (None, 0))(w, halves(x)),
    "scan of remat": lambda solve: gradient(
        lambda w, x: lax.scan(lambda c, part: (c, jax.checkpoint(solve)(w, part)), None, halves(x))[
            1
        ]
    ),
}


def mesh_of(kind):
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))


def on_mesh(kind, function, weight, x):
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        weight = jax.device_put(weight, NamedSharding(mesh, PartitionSpec()))
        x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        return jax.jit(function)(weight, x)


def in_shard_map(check, function, weight, x):
    specs = PartitionSpec(), PartitionSpec("data")

    def local(weight, x):
        in_weight, in_x = function(weight, x)
        # with its checks on, shard_map adds up the gradient of what is replicated
        return in_weight if check else lax.psum(in_weight, "data"), in_x

    mapped = jax.shard_map(
        local, mesh=mesh_of(AxisType.Auto), in_specs=specs, out_specs=specs, check_vma=check
    )
    return jax.jit(mapped)(weight, x)


def in_pmap(function, weight, x):
    def local(weight, x):
        in_weight, in_x = function(weight, x)
        return lax.psum(in_weight, "data"), in_x

    mapped = jax.pmap(local, axis_name="data", in_axes=(None, 0), out_axes=(None, 0))
    return whole(mapped(weight, x.reshape(DEVICES, -1, SIZE)))


def checked(function, weight, x):
    with jax.checking_leaks(), jax.debug_nans(True):
        return jax.jit(function)(weight, x)


def plainly(function, weight, x):
    with jax.disable_jit():
        return function(weight, x)


# how the gradient of a solve is run
RUN = {
    "checking_leaks, debug_nans": checked,
    "Explicit mesh": partial(on_mesh, AxisType.Explicit),
    "Auto mesh": partial(on_mesh, AxisType.Auto),
    "shard_map": partial(in_shard_map, True),
    "shard_map, unchecked": partial(in_shard_map, False),
    "pmap": in_pmap,
    "disable_jit": plainly,
}
FORWARD = {"jvp", "jvp of vjp", "vjp of jvp"}
TRANSFORMS = [*DERIVED, *RUN]

# small programs: three features need no more
mixed, low_rank = partial(anderson, history=2), partial(broyden, rank=3)
SOLVERS = {
    "picard": (picard, implicit(picard, tol=1e-10, max_steps=20)),
    "anderson": (mixed, implicit(mixed, tol=1e-10)),
    "broyden": (low_rank, implicit(picard, tol=1e-10)),
    "newton_krylov": (
        partial(newton_krylov, krylov=3),
        implicit(partial(gmres, restart=3), tol=1e-10),
    ),
    "reversible solver": (partial(reversible, damping=0.8), implicit(picard, tol=1e-10)),
}
RULES = {
    "forward_mode": (picard, implicit(picard, tol=1e-10, forward_mode=True)),
    "jacobian_free": (picard, jacobian_free()),
    "neumann": (picard, neumann(20)),
    "phantom": (picard, phantom(20, damping=1.0)),
    "shine": (low_rank, shine(refine=20, solver=picard, tol=1e-10)),
    "unrolled": (picard, unrolled()),
    "reversible": (reversible, undone()),
}
# within "vjp" and "vmap of grad"; and within "pmap", which is a shard_map without its checks
WITHIN = {"value", "vmap", "shard_map, unchecked"}
CLAIMED = {name: set(TRANSFORMS) - FORWARD - WITHIN for name in RULES}
CLAIMED["forward_mode"] |= FORWARD
CLAIMED["unrolled"] |= FORWARD
CLAIMED["jacobian_free"] -= {"vjp of vjp"}  # its gradient is no derivative of its value
CLAIMED["reversible"] -= {"vjp of vjp"}  # refused by name
CLAIMED["picard"] = set(TRANSFORMS) - FORWARD
# What takes a solve as a whole (second derivatives, remat) sees nothing of the solver, and on an
# Auto mesh none of our code sees the mesh: tests/test_meshes.py has every solver on one.
OWN = {"vjp", "vmap of grad", "checking_leaks, debug_nans", "Explicit mesh", "shard_map"}
CLAIMED["newton_krylov"] = OWN | {"disable_jit"}
CLAIMED["anderson"] = OWN | {"disable_jit", "pmap"}
CLAIMED["broyden"] = CLAIMED["reversible solver"] = {"vjp"}  # the rest: shine and reversible

TABLE = [
    (transform, name)
    for name in (*SOLVERS, *RULES)
    for transform in TRANSFORMS
    if transform in CLAIMED[name]
]


@functools.cache
def truth(derived, function):
    return jax.jit(derived(function))(jnp.asarray(WEIGHT), jnp.asarray(INPUT))


@pytest.mark.parametrize(("transform", "name"), TABLE, ids=[": ".join(row) for row in TABLE])
def test_every_transform(transform, name):
    solver, adjoint = (SOLVERS | RULES)[name]
    solve = partial(solved, solver=solver, adjoint=adjoint)
    operands = jnp.asarray(WEIGHT), jnp.asarray(INPUT)
    if transform in DERIVED:
        found = jax.jit(DERIVED[transform](solve))(*operands)
    else:
        found = RUN[transform](gradient(solve), *operands)
    derived = DERIVED.get(transform, gradient)
    expected = truth(derived, one_evaluation if name == "jacobian_free" else newton)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), found, expected)
