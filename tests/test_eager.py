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
from deqjax.adjoints import implicit, neumann, phantom, unrolled
from deqjax.solvers import anderson, picard

Z0 = jnp.zeros((2, 3))
EXACT = {"tol": 1e-6, "max_steps": 60}


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
    jax.monitoring.clear_event_listeners()


def layer(z, weights, offset):
    return jnp.tanh(z @ weights + offset)


def value(scale, **options):
    return dq.fixed_point(layer, Z0, scale * jnp.eye(3), jnp.ones((2, 3)), **options).value


def gradient(scale, **options):
    return jax.grad(lambda s: value(s, **options).sum())(scale)


CALLS = {
    "value": value,
    "grad": gradient,
    "value_and_grad": lambda s: jax.value_and_grad(lambda s: value(s).sum())(s),
    "vmap of grad": lambda s: jax.vmap(gradient)(jnp.stack([s, 2 * s])),
    "grad of grad": lambda s: jax.grad(gradient)(s),
    "jvp": lambda s: jax.jvp(
        lambda s: value(s, adjoint=implicit(forward_mode=True)), (s,), (jnp.ones_like(s),)
    ),
    "unrolled": lambda s: gradient(s, adjoint=unrolled(), max_steps=3),
    "picard, phantom": lambda s: gradient(s, solver=picard, adjoint=phantom()),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_second_call_compiles_nothing_and_says_what_jit_says(call, compilations):
    call(jnp.float32(0.1))
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
    deq = deqjax.nn.DEQ(Cell())
    return lambda u: nnx.grad(lambda deq, u: deq(u).value.sum())(deq, u)["cell"]["linear"]["kernel"]


class LinenCell(linen.Module):
    @linen.compact
    def __call__(self, z, u):
        return linen.relu(linen.Dense(3, kernel_init=linen.initializers.normal(0.1))(z) + u)


def linen_model():
    deq = deqjax.linen.DEQ(LinenCell())
    variables = deq.init(jax.random.key(0), jnp.ones((2, 3)))
    return lambda u: jax.grad(lambda v, u: deq.apply(v, u).value.sum())(variables, u)


@pytest.mark.parametrize("model", [nnx_model, linen_model])
def test_layers_compile_once(model, compilations):
    call = model()
    call(jnp.ones((2, 3)))
    compilations.clear()
    call(2 * jnp.ones((2, 3)))
    assert compilations == []


def test_limits_controls_and_captured_arrays_are_arguments(compilations):
    def solve(scale, tol, max_steps, backward):
        weights = np.float32(scale) * np.eye(3, dtype=np.float32)

        def loss(offset):
            found = dq.fixed_point(
                lambda z: jnp.tanh(z @ weights + offset),
                Z0,
                tol=tol,
                max_steps=max_steps,
                adjoint=implicit(tol=backward, max_steps=max_steps),
            )
            return found.value.sum(), found.stats.steps

        return jax.grad(loss, has_aux=True)(1.0)

    solve(0.3, 1e-3, 30, 1e-3)
    compilations.clear()
    _, steps = solve(0.5, 1e-6, 2, 1e-6)
    assert compilations == []
    assert steps.tolist() == [2, 2]
    assert len(_eager._programs) == 1


@jax.custom_jvp
def doubled(x):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))


@jax.custom_jvp
def claimed(x):
    return 2 * x


claimed.defjvp(lambda primals, tangents: (claimed(*primals), 3 * tangents[0]))


def with_vjp(factor):
    function = jax.custom_vjp(lambda x: 2 * x)
    function.defvjp(lambda x: (function(x), None), lambda _, g: (factor * g,))
    return function


def with_second(factor):
    """A function whose first derivative is a function with a derivative of its own."""
    slope = jax.custom_jvp(lambda x: 2 + 0 * x)
    slope.defjvp(lambda p, t: (slope(*p), factor * t[0]))
    function = jax.custom_jvp(lambda x: 2 * x)
    function.defjvp(lambda p, t: (function(*p), slope(*p) * t[0]))
    return function


def solve_map(f, z0=Z0, order=1, **options):
    def loss(x):
        return dq.fixed_point(f, z0, x, **(EXACT | options)).value.sum()

    for _ in range(order):
        loss = jax.grad(loss)
    return loss


NUMPY = np.array([0.1, 0.2, 0.3], np.float32)

# name -> two solves that differ in one respect, of which the second must not get the first's program
PAIRS = {
    "a Python number": [solve_map(lambda z, x, c=c: c * z + x * x) for c in (0.1, 0.2)],
    "its sign of zero": [
        solve_map(lambda z, x, c=c: 0.1 * z + jnp.arctan2(c, -x), order=0) for c in (0.0, -0.0)
    ],
    "a static parameter": [
        solve_map(lambda z, x, n=n: 0.1 * z + x * jnp.sum(0.1 * z + 1, n, keepdims=True))
        for n in (0, 1)
    ],
    "an operation": [solve_map(lambda z, x, g=g: 0.1 * z + g(x)) for g in (jnp.sin, jnp.cos)],
    "the order of operands": [
        solve_map(lambda z, x: 0.1 * z + (x - jnp.sin(x))),
        solve_map(lambda z, x: 0.1 * z + (jnp.sin(x) - x)),
    ],
    "a NumPy constant": [solve_map(lambda z, x, c=c: c * z + x * x) for c in (NUMPY, 2 * NUMPY)],
    "a constant inside of jit": [
        solve_map(jax.jit(lambda z, x, c=c: c * z + x * x)) for c in (NUMPY, 2 * NUMPY)
    ],
    "a rule": [solve_map(lambda z, x, g=g: 0.1 * z + g(x)) for g in (doubled, claimed)],
    "a backward rule": [solve_map(lambda z, x, g=with_vjp(n): 0.1 * z + g(x)) for n in (2.0, 3.0)],
    "a rule's rule": [
        solve_map(lambda z, x, g=with_second(n): 0.1 * z + g(x), order=2) for n in (5.0, 7.0)
    ],
    "the body of a loop": [
        solve_map(lambda z, x, c=c: jax.lax.scan(lambda y, _: (c * y + x, None), z, length=2)[0])
        for c in (0.1, 0.2)
    ],
    "a solver": [
        solve_map(lambda z, x: jnp.tanh(0.9 * z + x), order=0, max_steps=3, solver=solver)
        for solver in (anderson, picard)
    ],
    "a solver's option": [
        solve_map(
            lambda z, x: jnp.tanh(0.9 * z + x),
            order=0,
            max_steps=3,
            solver=functools.partial(picard, damping=damping),
        )
        for damping in (0.5, 0.9)
    ],
    "an adjoint": [
        solve_map(lambda z, x: jnp.tanh(0.9 * z + x), adjoint=rule)
        for rule in (neumann(1), phantom(1))
    ],
    "an adjoint's option": [
        solve_map(lambda z, x: jnp.tanh(0.9 * z + x), adjoint=neumann(terms)) for terms in (1, 4)
    ],
    "the backward solver's option": [
        solve_map(
            lambda z, x: jnp.tanh(0.9 * z + x),
            adjoint=implicit(functools.partial(picard, damping=damping), max_steps=3),
        )
        for damping in (0.5, 0.9)
    ],
    "unrolled steps": [
        solve_map(lambda z, x: jnp.tanh(0.9 * z + x), adjoint=unrolled(), max_steps=steps, tol=0)
        for steps in (2, 3)
    ],
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_what_differs_is_not_mistaken(pair):
    found = [solve(0.7) for solve in pair]
    expected = [jax.jit(solve)(0.7) for solve in pair]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3  # else the pair would show nothing


def test_a_global_that_changes_is_seen(monkeypatch):
    def f(z):
        return 0.1 * z + NUMPY

    before = dq.fixed_point(f, Z0, **EXACT).value
    monkeypatch.setitem(globals(), "NUMPY", 2 * NUMPY)
    np.testing.assert_allclose(dq.fixed_point(f, Z0, **EXACT).value, 2 * before, rtol=1e-5)


def test_types_and_modes_have_programs_of_their_own():
    def solve(dtype):
        return dq.fixed_point(
            lambda z: jnp.tanh(0.5 * z + 1), jnp.zeros((2, 3), dtype), tol=1e-12, max_steps=60
        ).value

    assert solve(jnp.float32).dtype == jnp.float32
    assert solve(jnp.bfloat16).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        wide = solve(jnp.float64)
    assert wide.dtype == jnp.float64
    np.testing.assert_allclose(wide, np.tanh(0.5 * np.asarray(wide) + 1), rtol=1e-12)
    assert solve(jnp.float32).dtype == jnp.float32


def test_a_changed_precision_of_products_is_another_map():
    def solve():
        return value(0.5)

    solve()
    with jax.default_matmul_precision("bfloat16"):
        solve()
    assert len(_eager._programs) == 2


def my_solver(f, z0, *, tol, max_steps):
    return anderson(f, z0, tol=tol, max_steps=max_steps)


def test_a_solver_of_ones_own_keeps_no_program():
    options = {"solver": my_solver}
    np.testing.assert_allclose(value(0.3, **options), value(0.3), rtol=1e-6)
    assert len(_eager._programs) == 1  # that of the second


def test_prints_and_callbacks_happen_in_every_solve(capsys):
    def f(z):
        jax.debug.callback(lambda total: print("seen"), z.sum())
        return 0.5 * z + 1

    counts = []
    for _ in range(2):
        dq.fixed_point(f, Z0, solver=picard, max_steps=3)
        jax.effects_barrier()
        counts.append(capsys.readouterr().out.count("seen"))
    assert counts[0] == counts[1] >= 4


@pytest.mark.parametrize(
    "context", [jax.disable_jit, jax.checking_leaks, lambda: jax.debug_nans(True)]
)
def test_jax_s_debugging_modes(context):
    expected = value(0.3, max_steps=3)
    with context():
        found = [value(0.3, max_steps=3) for _ in range(2)]
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6)


def test_debug_looks_at_f_in_every_call():
    draws = iter(range(100))

    def f(z, keep):
        return 0.5 * z + (0 if keep else next(draws))

    dq.fixed_point(lambda z: f(z, True), Z0, debug=True)
    with pytest.raises(dq.NotDeterministicError):
        dq.fixed_point(lambda z: f(z, False), Z0, debug=True)


def test_no_array_is_kept_alive():
    def solve():
        weights, offset = 0.3 * jnp.eye(3), jnp.ones((2, 3))
        jax.grad(
            lambda w: dq.fixed_point(lambda z, x: jnp.tanh(z @ w + x), Z0, offset).value.sum()
        )(weights)
        return weakref.ref(weights), weakref.ref(offset)

    dead = [each for _ in range(3) for each in solve()]
    gc.collect()
    assert [each() for each in dead] == [None] * len(dead)


def test_memory_does_not_grow():
    def solves(count):
        for index in range(count):
            gradient(0.001 * index)
        gc.collect()
        return len(gc.get_objects()), len(jax.live_arrays())

    solves(3)
    objects, arrays = solves(20)
    more_objects, more_arrays = solves(200)
    assert more_arrays <= arrays
    assert more_objects <= objects + 100  # half an object a call


def test_the_programs_used_longest_ago_go(monkeypatch):
    monkeypatch.setattr(_eager, "MOST_PROGRAMS", 2)
    for scale in (0.1, 0.2, 0.1, 0.3):
        dq.fixed_point(lambda z, scale=scale: scale * z + 1, Z0, solver=picard)
    kept = list(_eager._programs)
    dq.fixed_point(lambda z: 0.1 * z + 1, Z0, solver=picard)
    assert set(_eager._programs) == set(kept)


def test_inside_of_jit_nothing_is_kept():
    jax.jit(value)(0.3)
    jax.make_jaxpr(gradient)(0.3)
    jax.lax.map(lambda s: value(s), jnp.arange(2.0))
    assert not _eager._programs
