"""States of any form: complex numbers, one coupled state, and what f returns besides."""

import functools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deqjax as dq
from deqjax.adjoints import implicit, jacobian_free, phantom, reversible, unrolled
from deqjax.solvers import anderson, broyden, newton_krylov, picard
from deqjax.solvers import reversible as reversible_solver

pytestmark = pytest.mark.usefixtures("strict_promotion")

BATCH, SIZE = 3, 4


def complex_inputs(dtype=np.complex128):
    """Weights of spectral norm below 1, an injection and a real gain."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    weights = draw(SIZE, SIZE)
    weights *= 0.6 / np.linalg.norm(weights, 2)
    x = jnp.asarray(0.3 * draw(BATCH, SIZE), dtype)
    return jnp.asarray(weights, dtype), x, jnp.asarray(0.8, x.real.dtype)


def layer(z, weights, x, gain):
    """A holomorphic map on one leaf, and one that is not on the other, which sees both."""
    gain, size = gain.astype(x.dtype), (1 + 0.1 * jnp.abs(z["not"])).astype(x.dtype)
    return {
        "holomorphic": gain * jnp.sin(z["holomorphic"] @ weights) + x,
        "not": gain * jnp.conj(jnp.sin(z["not"] @ weights)) + x * size + 0.1 * z["holomorphic"],
    }


def real_layer(z, weights, x, gain):
    """The same map on real states of twice the size, (re z, im z), with real operands."""
    joined = {name: jax.lax.complex(*jnp.split(leaf, 2, axis=1)) for name, leaf in z.items()}
    image = layer(joined, jax.lax.complex(*weights), jax.lax.complex(*x), gain)
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf.real, leaf.imag], axis=1), image)


def loss_of(parts):
    """Real, and of neither part alone."""
    return sum(
        jnp.sum(jnp.sin(real + 0.5) * jnp.cos(2 * imag) + real * imag) for real, imag in parts
    )


RULES = {
    "implicit": implicit(picard, tol=1e-14, max_steps=300),
    "forward mode": implicit(picard, tol=1e-14, max_steps=300, forward_mode=True),
    "jacobian_free": jacobian_free(),
    "phantom": phantom(3),
    "unrolled": unrolled(),
    "reversible": reversible(),
}


def solve(f, start, *args, rule):
    exact = {"solver": picard, "tol": 1e-14, "max_steps": 60}
    if rule == "reversible":
        exact = {"solver": reversible_solver, "tol": 0.0, "max_steps": 6}
    z0 = {"holomorphic": start, "not": start}
    return dq.fixed_point(f, z0, *args, adjoint=RULES[rule], **exact).value.values()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rule", RULES)
def test_complex_states_are_real_ones_of_twice_the_size(rule):
    weights, x, gain = complex_inputs()

    def complex_loss(weights, x, gain):
        leaves = solve(layer, jnp.zeros_like(x), weights, x, gain, rule=rule)
        return loss_of((z.real, z.imag) for z in leaves)

    def real_loss(weights, x, gain):
        leaves = solve(real_layer, jnp.zeros((BATCH, 2 * SIZE)), weights, x, gain, rule=rule)
        return loss_of(jnp.split(z, 2, axis=1) for z in leaves)

    differentiate = partial(jax.value_and_grad, argnums=(0, 1, 2))
    value, found = jax.jit(differentiate(complex_loss))(weights, x, gain)
    real_value, expected = jax.jit(differentiate(real_loss))(
        (weights.real, weights.imag), (x.real, x.imag), gain
    )
    np.testing.assert_allclose(value, real_value, rtol=1e-12)
    for gradient, parts in zip(found[:2], expected[:2], strict=True):
        # JAX's convention: the conjugate of what steepest ascent follows
        np.testing.assert_allclose(gradient.real, parts[0], rtol=0, atol=1e-11)
        np.testing.assert_allclose(gradient.imag, -parts[1], rtol=0, atol=1e-11)
    np.testing.assert_allclose(found[2], expected[2], rtol=0, atol=1e-11)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", [anderson, broyden, newton_krylov])
def test_complex_linear_systems_against_lapack(solver):
    weights, x, _ = complex_inputs()
    matrix = np.eye(SIZE) - np.asarray(weights)
    truth = np.linalg.solve(matrix.T, np.asarray(x).T).T

    def solve(weights, x):
        adjoint = implicit(solver, tol=1e-14, max_steps=60)
        return dq.fixed_point(
            lambda z, weights, x: z @ weights + x,
            jnp.zeros_like(x),
            weights,
            x,
            solver=solver,
            adjoint=adjoint,
            tol=1e-13,
            max_steps=60,
        ).value

    cotangent = np.arange(BATCH * SIZE).reshape(x.shape) * (1 - 0.5j)

    @jax.jit
    def value_and_pulled(x, cotangent):
        value, pull = jax.vjp(partial(solve, weights), x)
        return value, pull(cotangent)[0]

    value, found = value_and_pulled(x, jnp.asarray(cotangent))
    np.testing.assert_allclose(value, truth, rtol=0, atol=1e-11)
    # the map from x to z* is C-linear: its vjp is the transpose, without conjugation
    expected = np.linalg.solve(matrix, cotangent.T).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_holomorphic_fixed_point_has_a_complex_derivative():
    options = {"adjoint": implicit(tol=1e-14, max_steps=99), "tol": 1e-14, "max_steps": 99}

    def root(c):
        z0 = jnp.complex128(0)
        return dq.fixed_point(lambda z, c: c * jnp.cos(z), z0, c, coupled=True, **options).value

    @jax.jit
    def root_and_slope(c):
        return root(c), jax.grad(root, holomorphic=True)(c)

    c = np.complex128(0.5 + 0.3j)
    z, slope = root_and_slope(c)
    np.testing.assert_allclose(slope, np.cos(z) / (1 + c * np.sin(z)), rtol=1e-9)


def test_mixed_states_keep_their_dtypes():
    def f(z):
        return {"c": 0.5 * z["c"] + 1j * z["r"].astype(jnp.complex64), "r": jnp.abs(z["c"]) * 0.5}

    z0 = {"c": jnp.ones((2, 3), jnp.complex64), "r": jnp.ones((2, 3))}
    solution = dq.fixed_point(f, z0, solver=partial(picard, trajectory=(1,)), max_steps=3)
    assert jax.tree.map(lambda x: x.dtype, solution.value) == jax.tree.map(lambda x: x.dtype, z0)
    np.testing.assert_allclose(solution.trajectory["c"][0], 0.5 + 1j)
    assert solution.stats.residual.dtype == jnp.float32


def test_solvers_themselves_take_real_states():
    with pytest.raises(TypeError, match=r"complex64: deqjax.fixed_point takes complex states"):
        picard(lambda z: z, jnp.ones((2, 3), jnp.complex64), tol=0.1, max_steps=1)


@pytest.mark.parametrize("shape", [(), (16,), (4, 5)], ids=["scalar", "vector", "matrix"])
def test_a_coupled_state_is_one_sample(shape):
    start, slope = jnp.zeros(shape), 0.9 * jnp.cos(jnp.arange(np.prod(shape)).reshape(shape))

    def solve(slope):
        solution = dq.fixed_point(
            lambda z: jnp.mean(slope * z) + slope, start, coupled=True, tol=1e-6
        )
        return jnp.sum(solution.value), solution

    (total, solution), gradient = jax.jit(jax.value_and_grad(solve, has_aux=True))(slope)
    assert solution.value.shape == shape
    assert all(np.shape(leaf) == (1,) for leaf in solution.stats[:3])
    # z = m + s with m = mean(s z) = m mean(s) + mean(s^2)
    with jax.numpy_rank_promotion("allow"):

        def truth(s):
            return jnp.sum(jnp.mean(s**2) / (1 - jnp.mean(s)) + s)

        np.testing.assert_allclose(total, truth(slope), rtol=1e-4)
        np.testing.assert_allclose(gradient, jax.grad(truth)(slope), rtol=1e-3, atol=1e-4)


def test_a_chain_over_axis_0_is_solved_to_its_end():
    """Solved as rows it said CONVERGED, and was off by 0.9."""
    size = 12
    chain = 0.9 * np.diag(np.ones(size - 1), -1)
    offset = np.eye(size)[:, :1]
    solution = dq.fixed_point(
        lambda z: jnp.asarray(chain, jnp.float32) @ z + jnp.asarray(offset, jnp.float32),
        jnp.zeros((size, 1)),
        coupled=True,
        tol=1e-5,
        max_steps=100,
    )
    truth = np.linalg.solve(np.eye(size) - chain, offset)
    np.testing.assert_allclose(solution.value, truth, rtol=0, atol=1e-4)


def test_leaves_of_any_length_are_one_state():
    z0 = {"nodes": jnp.zeros((5, 2)), "edges": jnp.zeros(7), "total": jnp.float32(0)}

    def f(z):
        return {
            "nodes": jnp.full((5, 2), 0.1) * z["total"],
            "edges": jnp.full(7, 0.1) * jnp.sum(z["nodes"]),
            "total": 0.2 * jnp.sum(z["edges"]) + 1,
        }

    solution = dq.fixed_point(f, z0, coupled=True, tol=1e-6, probe=dq.backward_probe(1))
    total = 1 / (1 - 0.2 * 7 * 0.1 * 10 * 0.1)
    np.testing.assert_allclose(solution.value["total"], total, rtol=1e-4)


def with_aux(z, gain):
    z = gain * jnp.tanh(z) + 1
    return z, {"norms": jnp.sum(z**2, axis=1), "gain": gain}


def test_aux_is_that_of_the_value():
    z0 = jnp.zeros((2, 3))

    def run(gain, has_aux=True):
        f = with_aux if has_aux else lambda z, gain: with_aux(z, gain)[0]
        options = {"solver": picard, "tol": 1e-6, "max_steps": 50}
        return dq.fixed_point(f, z0, gain, has_aux=has_aux, **options)

    @jax.jit
    def all_of_it(gain):
        slope = jax.grad(lambda gain: jnp.sum(run(gain).aux["norms"]))(gain)
        return run(gain), run(gain, has_aux=False), slope

    gain = jnp.float32(0.5)
    found, plain, slope = all_of_it(gain)
    np.testing.assert_array_equal(found.value, plain.value)
    np.testing.assert_array_equal(found.stats.steps, plain.stats.steps)
    assert found.stats.evaluations == plain.stats.evaluations + 1
    assert plain.aux is None
    image, aux = with_aux(found.value, gain)
    np.testing.assert_allclose(found.aux["norms"], aux["norms"], rtol=1e-6)
    assert "aux: {'gain': float32[], 'norms': float32[2]}" in repr(found)

    # through z* and directly: of z = g tanh z + 1, dz/dg = tanh z / (1 - g (1 - tanh^2 z))
    t = np.tanh(found.value)
    np.testing.assert_allclose(slope, np.sum(2 * image * t / (1 - 0.5 * (1 - t**2))), rtol=1e-4)


@pytest.mark.parametrize(
    ("f", "z0", "options", "error", "words"),
    [
        (lambda z: z, 1.0, {}, ValueError, "if the whole state is one sample, give fixed_point"),
        (lambda z: z, jnp.ones(3), {"coupled": 1}, TypeError, "coupled must be True or False"),
        (lambda z: z, jnp.ones(3), {"has_aux": "yes"}, TypeError, "has_aux must be True or False"),
        (
            lambda z: z,
            jnp.ones(3),
            {"coupled": True, "segments": [0, 0, 0]},
            ValueError,
            "choose one",
        ),
        (lambda z: z, jnp.ones((3, 1)), {"has_aux": True}, TypeError, "f that returns (z, aux)"),
        (lambda z: (z, 1), jnp.ones((3, 1)), {}, TypeError, "takes (z, aux) with has_aux=True"),
        (
            lambda z: z[:2],
            jnp.ones(3),
            {"coupled": True},
            ValueError,
            "shape of z from (3,) to (2,)",
        ),
        (
            jnp.abs,
            jnp.ones((3, 1), jnp.complex64),
            {},
            TypeError,
            "dtype of z from complex64 to float32",
        ),
        (
            lambda z: z,
            jnp.ones((3, 1)),
            {"coupled": True, "probe": dq.backward_probe(3)},
            ValueError,
            "use deqjax.backward_probe(1)",
        ),
    ],
    ids=[
        "scalar",
        "coupled",
        "has_aux",
        "both",
        "no aux",
        "aux",
        "shape",
        "dtype",
        "probe",
    ],
)
def test_what_does_not_fit_is_refused(f, z0, options, error, words):
    with pytest.raises(error, match=re.escape(words)):
        dq.fixed_point(f, z0, **options)


@functools.cache
def matrices():
    """A C-linear map's matrix, and that of z -> conj(z) M as a real one of twice the size."""
    matrix = np.asarray(complex_inputs(np.complex64)[0])
    re, im = matrix.real, matrix.imag
    return matrix, np.block([[re, im], [im, -re]])


def estimates(f, z):
    key = jax.random.key(0)
    return (
        dq.spectral_radius(f, z, key=key)[0],
        dq.spectral_norm(f, z, key=key, iterations=200)[0],
        dq.jacobian_penalty(f, z, key=key, samples=2000),
    )


@pytest.mark.parametrize("conjugated", [False, True], ids=["C-linear", "R-linear"])
def test_estimates_of_complex_jacobians_are_those_of_their_matrices(conjugated):
    matrix, real = matrices()
    z = jnp.ones((2, SIZE), jnp.complex64)
    radius, norm, penalty = jax.jit(
        lambda z: estimates(lambda z: (jnp.conj(z) if conjugated else z) @ matrix, z)
    )(z)
    truth = real if conjugated else matrix
    np.testing.assert_allclose(radius, np.abs(np.linalg.eigvals(truth)).max(), rtol=1e-4)
    np.testing.assert_allclose(norm, np.linalg.norm(truth, 2), rtol=1e-3)
    np.testing.assert_allclose(penalty, np.linalg.norm(matrix) ** 2 / SIZE, rtol=0.05)


def test_estimates_of_coupled_states_and_graphs():
    matrix = np.asarray(matrices()[0].real)
    radius, norm = np.abs(np.linalg.eigvals(matrix)).max(), np.linalg.norm(matrix, 2)
    key, ids = jax.random.key(0), np.array([0, 1, 0, 0, 1, 0])

    def both(z):
        """The matrix on the first graph, half the identity on the second."""
        return z.at[ids == 0].set(matrix @ z[ids == 0]).at[ids == 1].set(0.5 * z[ids == 1])

    z, graphs = jnp.ones(len(ids)), {"segments": ids, "key": key}

    @jax.jit
    def all_of_it(z):
        whole = dq.spectral_radius(
            lambda z: (matrix @ z, z), z[:SIZE], key=key, coupled=True, has_aux=True
        )
        norms = dq.spectral_norm(both, z, iterations=200, **graphs)
        penalty = dq.jacobian_penalty(both, z, samples=2000, **graphs)
        return whole, dq.spectral_radius(both, z, **graphs), norms, penalty

    whole, radii, norms, penalty = all_of_it(z)
    np.testing.assert_allclose(whole, [radius], rtol=1e-4)
    np.testing.assert_allclose(radii, [radius, 0.5], rtol=1e-4)
    np.testing.assert_allclose(norms, [norm, 0.5], rtol=1e-3)
    np.testing.assert_allclose(penalty, (np.linalg.norm(matrix) ** 2 + 0.5) / 6, rtol=0.05)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
def test_all_options_go_together(jit):
    # a complex number, whole state, auxiliary output and the step's number, whose weight fades
    def f(z, a, *, step):
        image = 0.5j * z + lax.convert_element_type(a + 0.1 ** step.astype(float), complex)
        return image, {"step": step, "image": image}

    def solve(a):
        return dq.fixed_point(
            f,
            jnp.complex128(0),
            a,
            solver=partial(picard, returns="last"),
            tol=0.0,
            max_steps=60,
            coupled=True,
            has_aux=True,
            numbered=True,
        )

    solution = (jax.jit(solve) if jit else solve)(2.0)
    np.testing.assert_allclose(solution.value, 2 / (1 - 0.5j), rtol=1e-12)
    np.testing.assert_allclose(solution.aux["image"], solution.value, rtol=1e-12)
    assert solution.aux["step"] == solution.stats.steps[0] > 40
    slope = jax.grad(lambda a: jnp.real(solve(a).value))(2.0)
    np.testing.assert_allclose(slope, (1 / (1 - 0.5j)).real, rtol=1e-5)
