"""Solves outside of jit: what was seen before compiles nothing, and nothing is taken for another.

A false hit would be a silent wrong result, so each pair that differs in one respect is compared
with what jit says, which knows nothing of the programs kept here.
"""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import deqjax as dq
import deqjax.linen
import deqjax.nn
from deqjax import _eager
from deqjax.adjoints import implicit, jacobian_free, neumann, phantom, unrolled
from deqjax.solvers import anderson, picard

Z0 = jnp.zeros((2, 3))
QUICK = {"solver": picard, "adjoint": jacobian_free()}  # as small programs as there are


@pytest.fixture(autouse=True)
def fresh():
    dq.clear_programs()


@pytest.fixture
def compilations():
    """Counts the programs that XLA compiles."""
    counted = []

    def count(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            counted.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    yield counted
    jax.monitoring.unregister_event_duration_listener(count)


def layer(z, weights, offset):
    return jnp.tanh(z @ weights + offset)


def value(scale, **options):
    return dq.fixed_point(layer, Z0, scale * jnp.eye(3), jnp.ones((2, 3)), **options).value


def gradient(scale, **options):
    return jax.grad(lambda s: value(s, **options).sum())(scale)


CALLS = {
    "value and gradient, all defaults": jax.value_and_grad(lambda s: value(s).sum()),
    "value": lambda s: value(s, **QUICK),
    "vmap of grad": lambda s: jax.vmap(lambda s: gradient(s, **QUICK))(jnp.stack([s, 2 * s])),
    "grad of grad": jax.grad(lambda s: gradient(s, **QUICK)),
    "jvp": lambda s: jax.jvp(
        lambda s: value(s, solver=picard, adjoint=implicit(picard, forward_mode=True)),
        (s,),
        (jnp.ones_like(s),),
    ),
    "unrolled": lambda s: gradient(s, solver=picard, adjoint=unrolled(), max_steps=2),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_second_call_compiles_nothing_and_says_what_jit_says(call, compilations):
    call(jnp.float32(0.1))
    assert compilations
    compilations.clear()
    result = call(jnp.float32(0.3))
    assert compilations == []
    expected = jax.jit(call)(jnp.float32(0.3))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), result, expected)


class Cell(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 3, kernel_init=nnx.initializers.normal(0.1), rngs=nnx.Rngs(0))

    def __call__(self, z, u):
        return nnx.relu(self.linear(z) + u)


def nnx_model():
    deq = deqjax.nn.DEQ(Cell(), **QUICK)
    return lambda u: nnx.grad(lambda deq, u: deq(u).value.sum())(deq, u)["cell"]["linear"]["kernel"]


class LinenCell(linen.Module):
    @linen.compact
    def __call__(self, z, u):
        return linen.relu(linen.Dense(3, kernel_init=linen.initializers.normal(0.1))(z) + u)


def linen_model():
    deq = deqjax.linen.DEQ(LinenCell(), **QUICK)
    variables = deq.init(jax.random.key(0), jnp.ones((2, 3)))
    return lambda u: jax.grad(lambda v, u: deq.apply(v, u).value.sum())(variables, u)


@pytest.mark.parametrize("model", [nnx_model, linen_model])
def test_layers_compile_once(model, compilations):
    call, inputs = model(), jnp.ones((2, 3))
    other = 2 * inputs
    call(inputs)
    compilations.clear()
    call(other)
    assert compilations == []


def test_limits_controls_and_captured_arrays_are_arguments(compilations):
    def solve(scale, tol, max_steps, backward):
        weights = np.float32(scale) * np.eye(3, dtype=np.float32)

        def loss(offset):
            found = dq.fixed_point(
                lambda z: jnp.tanh(z @ weights + offset),
                Z0,
                solver=picard,
                tol=tol,
                max_steps=max_steps,
                adjoint=implicit(picard, tol=backward, max_steps=max_steps),
            )
            return found.value.sum(), found.stats.steps

        return jax.grad(loss, has_aux=True)(1.0)

    solve(0.3, 1e-3, 30, 1e-3)
    compilations.clear()
    _, steps = solve(0.5, 1e-6, 2, 1e-6)
    assert compilations == []
    assert steps.tolist() == [2, 2]
    assert len(_eager._programs) == 1


def with_jvp(factor):
    """2 x with a derivative as it is told."""
    function = jax.custom_jvp(lambda x: 2 * x)
    function.defjvp(lambda primals, tangents: (function(*primals), factor * tangents[0]))
    return function


def with_vjp(factor):
    function = jax.custom_vjp(lambda x: 2 * x)
    function.defvjp(lambda x: (function(x), None), lambda _, g: (factor * g,))
    return function


def with_second(factor):
    """A function whose first derivative is a function with a derivative of its own."""
    steepness = jax.custom_jvp(lambda x: 2 + 0 * x)
    steepness.defjvp(lambda p, t: (steepness(*p), factor * t[0]))
    function = jax.custom_jvp(lambda x: 2 * x)
    function.defjvp(lambda p, t: (function(*p), steepness(*p) * t[0]))
    return function


def twice(step, z):
    return jax.lax.scan(lambda y, _: (step(y), None), z, length=2)[0]


NUMPY = np.array([0.1, 0.2, 0.3], np.float32)
X = 0.7


def solved(f, **options):
    """The sum of six equal or three pairs of equal numbers, by as small a program as there is."""
    options = {"solver": picard, "adjoint": jacobian_free(), "tol": 1e-7, "max_steps": 60} | options
    return lambda x: dq.fixed_point(f, Z0, x, **options).value.sum()


def damped(**options):
    return functools.partial(picard, **options)


def slope(solve):
    return jax.grad(solve)(X)


def curvature(solve):
    return jax.grad(jax.grad(solve))(X)


def halved(z, x):
    return 0.5 * z + x


# name -> what is asked of a solve, and two that differ in one respect, with the right answers
PAIRS = {
    "a Python number": (
        None,
        (solved(lambda z, x: 0.1 * z + x), 6 * X / 0.9),
        (solved(lambda z, x: 0.2 * z + x), 6 * X / 0.8),
    ),
    "the sign of zero": (
        None,
        (solved(lambda z, x: 0.1 * z + jnp.arctan2(0.0, -x)), 6 * np.pi / 0.9),
        (solved(lambda z, x: 0.1 * z + jnp.arctan2(-0.0, -x)), -6 * np.pi / 0.9),
    ),
    "a static parameter": (
        None,
        (solved(lambda z, x: 0.1 * jnp.sum(z, 0, keepdims=True) + x + 0 * z), 6 * X / 0.8),
        (solved(lambda z, x: 0.1 * jnp.sum(z, 1, keepdims=True) + x + 0 * z), 6 * X / 0.7),
    ),
    "an operation": (
        None,
        (solved(lambda z, x: 0.1 * z + jnp.sin(x)), 6 * np.sin(X) / 0.9),
        (solved(lambda z, x: 0.1 * z + jnp.cos(x)), 6 * np.cos(X) / 0.9),
    ),
    "the order of operands": (
        None,
        (solved(lambda z, x: 0.1 * z + (x - jnp.sin(x))), 6 * (X - np.sin(X)) / 0.9),
        (solved(lambda z, x: 0.1 * z + (jnp.sin(x) - x)), 6 * (np.sin(X) - X) / 0.9),
    ),
    "a NumPy constant": (
        None,
        (solved(lambda z, x, c=NUMPY: c * z + x), 2 * np.sum(X / (1 - NUMPY))),
        (solved(lambda z, x, c=2 * NUMPY: c * z + x), 2 * np.sum(X / (1 - 2 * NUMPY))),
    ),
    "a constant inside of jit": (
        None,
        (solved(jax.jit(lambda z, x, c=NUMPY: c * z + x)), 2 * np.sum(X / (1 - NUMPY))),
        (solved(jax.jit(lambda z, x, c=2 * NUMPY: c * z + x)), 2 * np.sum(X / (1 - 2 * NUMPY))),
    ),
    "the body of a loop": (
        None,
        (solved(lambda z, x: twice(lambda y: 0.1 * y + x, z)), 6 * X * 1.1 / 0.99),
        (solved(lambda z, x: twice(lambda y: 0.2 * y + x, z)), 6 * X * 1.2 / 0.96),
    ),
    "a derivative": (
        slope,
        (solved(lambda z, x: 0.1 * z + with_jvp(2.0)(x)), 12),
        (solved(lambda z, x: 0.1 * z + with_jvp(3.0)(x)), 18),
    ),
    "a pull-back": (
        slope,
        (solved(lambda z, x: 0.1 * z + with_vjp(2.0)(x)), 12),
        (solved(lambda z, x: 0.1 * z + with_vjp(3.0)(x)), 18),
    ),
    "a second derivative": (
        curvature,
        (solved(lambda z, x: 0 * z + with_second(5.0)(x)), 30),
        (solved(lambda z, x: 0 * z + with_second(7.0)(x)), 42),
    ),
    "a solver": (
        None,
        (solved(halved, max_steps=2), 6 * 1.5 * X),
        (solved(halved, max_steps=2, solver=anderson), 6 * 2 * X),
    ),
    "a solver's option": (
        None,
        (solved(halved, max_steps=1, solver=damped(damping=0.5)), 6 * 0.5 * X),
        (solved(halved, max_steps=1, solver=damped(damping=0.9)), 6 * 0.9 * X),
    ),
    "an adjoint": (
        slope,
        (solved(halved), 6),
        (solved(halved, adjoint=phantom(1, damping=0.25)), 1.5),
    ),
    "an adjoint's option": (
        slope,
        (solved(halved, adjoint=neumann(2)), 9),
        (solved(halved, adjoint=neumann(3)), 10.5),
    ),
    "the backward solver's option": (
        slope,
        (solved(halved, adjoint=implicit(damped(damping=0.5), max_steps=1)), 6 * 1.25),
        (solved(halved, adjoint=implicit(damped(damping=1), max_steps=1)), 6 * 1.5),
    ),
    "unrolled steps": (
        slope,
        (solved(halved, adjoint=unrolled(), max_steps=1, tol=0), 6),
        (solved(halved, adjoint=unrolled(), max_steps=2, tol=0), 9),
    ),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_what_differs_is_not_mistaken(pair):
    asked, *solves = pair
    for solve, expected in solves:
        found = solve(X) if asked is None else asked(solve)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_global_that_changes_is_seen(monkeypatch):
    def f(z):
        return 0.0 * z + NUMPY

    np.testing.assert_allclose(dq.fixed_point(f, Z0, **QUICK).value[0], NUMPY)
    monkeypatch.setitem(globals(), "NUMPY", 2 * NUMPY)
    np.testing.assert_allclose(dq.fixed_point(f, Z0, **QUICK).value[0], NUMPY)


def test_types_and_modes_have_programs_of_their_own():
    def solve(dtype):
        return dq.fixed_point(
            lambda z: jnp.tanh(0.5 * z + 1),
            jnp.zeros((2, 3), dtype),
            tol=1e-12,
            max_steps=60,
            **QUICK,
        ).value

    assert solve(jnp.float32).dtype == jnp.float32
    assert solve(jnp.bfloat16).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        wide = solve(jnp.float64)
    assert wide.dtype == jnp.float64
    np.testing.assert_allclose(wide, np.tanh(0.5 * np.asarray(wide) + 1), rtol=1e-12)
    assert solve(jnp.float32).dtype == jnp.float32


def test_a_changed_precision_of_products_is_another_map():
    value(0.5, **QUICK)
    with jax.default_matmul_precision("bfloat16"):
        value(0.5, **QUICK)
    assert len(_eager._programs) == 2


def my_solver(f, z0, *, tol, max_steps):
    return picard(f, z0, tol=tol, max_steps=max_steps)


def test_a_solver_of_ones_own_keeps_no_program():
    found = value(0.3, **(QUICK | {"solver": my_solver}))
    np.testing.assert_allclose(found, value(0.3, **QUICK), rtol=1e-6)
    assert len(_eager._programs) == 1  # that of the second


def test_prints_and_callbacks_happen_in_every_solve(capsys):
    def f(z):
        jax.debug.callback(lambda total: print("seen"), z.sum())
        return 0.5 * z + 1

    counts = []
    for _ in range(2):
        dq.fixed_point(f, Z0, max_steps=3, **QUICK)
        jax.effects_barrier()
        counts.append(capsys.readouterr().out.count("seen"))
    assert counts[0] == counts[1] >= 4


@pytest.mark.parametrize(
    "context", [jax.disable_jit, jax.checking_leaks, lambda: jax.debug_nans(True)]
)
def test_jax_s_debugging_modes(context):
    expected = value(0.3, max_steps=3, **QUICK)
    with context():
        found = [value(0.3, max_steps=3, **QUICK) for _ in range(2)]
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6)


def test_debug_looks_at_f_in_every_call():
    draws = iter(range(100))

    def f(z, keep):
        return 0.5 * z + (0 if keep else next(draws))

    dq.fixed_point(lambda z: f(z, True), Z0, debug=True, **QUICK)
    with pytest.raises(dq.NotDeterministicError):
        dq.fixed_point(lambda z: f(z, False), Z0, debug=True, **QUICK)


def test_no_array_is_kept_alive():
    def solve():
        weights, offset = 0.3 * jnp.eye(3), jnp.ones((2, 3))
        jax.grad(
            lambda w: dq.fixed_point(
                lambda z, x: jnp.tanh(z @ w + x), Z0, offset, **QUICK
            ).value.sum()
        )(weights)
        return weakref.ref(weights), weakref.ref(offset)

    dead = [each for _ in range(3) for each in solve()]
    gc.collect()
    assert [each() for each in dead] == [None] * len(dead)


def test_memory_does_not_grow():
    offset = jnp.ones((2, 3))

    def solves(count):
        for index in range(count):
            weights = jnp.full((3, 3), 0.001 * index)
            jax.grad(lambda w: dq.fixed_point(layer, Z0, w, offset, **QUICK).value.sum())(weights)
        gc.collect()
        return len(gc.get_objects()), len(jax.live_arrays())

    solves(3)
    objects, arrays = solves(20)
    more_objects, more_arrays = solves(100)
    assert more_arrays <= arrays
    assert more_objects <= objects + 50  # less than half an object a call


def test_the_programs_used_longest_ago_go(monkeypatch):
    monkeypatch.setattr(_eager, "MOST_PROGRAMS", 2)
    for scale in (0.1, 0.2, 0.1, 0.3):
        dq.fixed_point(lambda z, scale=scale: scale * z + 1, Z0, **QUICK)
    kept = list(_eager._programs)
    dq.fixed_point(lambda z: 0.1 * z + 1, Z0, **QUICK)
    assert set(_eager._programs) == set(kept)


def test_forgotten_programs_are_gone():
    gradient(0.3, **QUICK)
    programs = [weakref.ref(program) for program in _eager._programs.values()]
    dq.clear_programs()
    gc.collect()
    assert [program() for program in programs] == [None]


def test_inside_of_jit_nothing_is_kept():
    def solve(scale):
        return value(scale, **QUICK)

    jax.jit(solve)(0.3)
    jax.make_jaxpr(jax.grad(lambda scale: solve(scale).sum()))(0.3)
    jax.lax.map(solve, jnp.arange(2.0))
    assert not _eager._programs
