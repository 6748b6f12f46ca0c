"""Jacobian estimates against numpy's dense answers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax import jacobian_penalty, spectral_norm, spectral_radius
from problems import affine_dict, coupled_dict, non_normal, with_radius

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

KEY = jax.random.key


def dense_jacobians(f, z):
    """(batch, m, n), for a z that is one array; the leaves of f(z) below each other."""

    def raveled(row):
        return jnp.concatenate([leaf[0].ravel() for leaf in jax.tree.leaves(f(row[None]))])

    return np.asarray(jax.vmap(jax.jacobian(raveled))(jnp.asarray(z)))


def layer(z, matrix, gain):
    return jnp.tanh(gain * (z @ matrix.T) + 0.3)


def heads(x, gain):
    """An input-output map: 4 features to 3 + 2 x 2, in two leaves."""
    wide = jnp.sin(gain * x @ WIDE.T)
    return {"image": wide[:, 3:].reshape(-1, 2, 2), "label": wide[:, :3]}


MATRIX = non_normal(0.6, size=4)
WIDE = np.random.default_rng(1).normal(size=(7, 4))
POINT = np.random.default_rng(0).normal(size=(3, 4))


MAPS = {"layer": partial(layer, matrix=MATRIX, gain=1.3), "input-output": partial(heads, gain=1.3)}


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
@pytest.mark.parametrize(("name", "samples"), [("layer", 1), ("input-output", 3)])
def test_the_penalty_expects_the_squared_frobenius_norm(name, samples, mode, distribution):
    draws = 2000 // samples
    f = MAPS[name]

    @jax.jit
    @jax.vmap
    def estimate(key):
        return jacobian_penalty(
            f, POINT, key=key, mode=mode, distribution=distribution, samples=samples
        )

    estimates = np.asarray(estimate(jax.random.split(KEY(0), draws)))
    # per feature of z, also where f(z) has another number of them
    expected = (dense_jacobians(f, POINT) ** 2).sum() / POINT.size
    error = estimates.std() / np.sqrt(draws)
    assert abs(estimates.mean() - expected) < 5 * error
    assert error < 0.05 * expected, "the bound is to be tight enough to fail"


def test_signs_know_a_diagonal_jacobian_exactly():
    gains = jnp.array([0.5, -2.0, 3.0])
    found = jacobian_penalty(
        lambda z: z * gains[None], jnp.ones((2, 3)), key=KEY(1), distribution="rademacher"
    )
    np.testing.assert_allclose(found, (0.25 + 4 + 9) / 3, rtol=1e-12)


def test_more_samples_shrink_the_variance():
    f = partial(layer, matrix=MATRIX, gain=1.3)

    def spread(samples):
        draw = jax.vmap(lambda key: jacobian_penalty(f, POINT, key=key, samples=samples))
        return np.asarray(jax.jit(draw)(jax.random.split(KEY(2), 500))).var()

    assert spread(8) < 0.3 * spread(1)


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
@pytest.mark.parametrize("closed_over", [False, True], ids=["args", "closure"])
def test_its_gradient_is_that_of_the_same_estimate(mode, closed_over):
    def penalty(gain):
        if closed_over:
            return jacobian_penalty(
                lambda z: layer(z, MATRIX, gain), POINT, key=KEY(3), samples=2, mode=mode
            )
        return jacobian_penalty(layer, POINT, MATRIX, gain, key=KEY(3), samples=2, mode=mode)

    found = jax.jit(jax.grad(penalty))(1.3)
    step = 1e-5
    value = jax.jit(penalty)
    expected = (value(1.3 + step) - value(1.3 - step)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
def test_no_gradient_flows_into_the_point(mode):
    def penalty(z):
        return jacobian_penalty(layer, z, MATRIX, 1.3, key=KEY(4), mode=mode)

    np.testing.assert_array_equal(jax.jit(jax.grad(penalty))(POINT), 0)


def test_a_penalty_of_a_bfloat16_layer_is_float32():
    z = jnp.ones((2, 3), jnp.bfloat16)
    found = jacobian_penalty(lambda z: z * jnp.bfloat16(0.5), z, key=KEY(5))
    assert found.dtype == jnp.float32
    assert jnp.isfinite(found)


ROTATION = np.array([[0.6, -0.7], [0.7, 0.6]])
SPECTRA = {
    "symmetric": with_radius(0.9, size=5),
    "negative": -with_radius(0.9, size=5),
    "complex pair": np.kron(np.diag([1.0, 0.4]), ROTATION),
    "non-normal": np.diag([0.9, 0.5, -0.3, 0.1]) + np.triu(np.ones((4, 4)), 1),
    "zero": np.zeros((3, 3)),
    "identity": np.eye(3),
    "1-d": np.array([[-0.7]]),
    # six eigenvalues of one modulus: a pair of iterates does not span them
    "equal moduli": 0.9 * np.roll(np.eye(6), 1, axis=0),
    # of norm 1, but a rounding gives it the radius eps^(1/4) = 1e-4
    "nilpotent": np.eye(4, k=1),
}


@partial(jax.jit, static_argnames=("estimate", "iterations"))
def estimate_batch(estimate, matrices, iterations=80):
    """A batch of linear maps, one a sample."""

    def f(z):
        return jnp.einsum("bij,bj->bi", matrices, z)

    z = jnp.zeros(matrices.shape[:2], matrices.dtype)
    return estimate(f, z, key=KEY(6), iterations=iterations)


def padded(matrices):
    """One batch of matrices of several sizes; a block of zeros adds only eigenvalues of zero."""
    size = max(len(matrix) for matrix in matrices)
    return np.stack([np.pad(matrix, (0, size - len(matrix))) for matrix in matrices])


@pytest.mark.parametrize("factor", [1, 1e-3, 50])
def test_estimates_are_those_of_the_dense_jacobians(factor):
    matrices = factor * padded(SPECTRA.values())
    radius = np.abs(np.linalg.eigvals(matrices)).max(axis=1)
    norm = np.linalg.norm(matrices, 2, axis=(1, 2))
    error = np.abs(estimate_batch(spectral_radius, matrices) - radius)
    assert (error <= np.where(radius > 0, 1e-9 * radius, 1e-3 * norm)).all(), (error, list(SPECTRA))
    found = estimate_batch(spectral_norm, matrices)
    np.testing.assert_allclose(found, norm, rtol=1e-4, err_msg=str(list(SPECTRA)))


def test_a_state_may_be_a_single_number():
    slopes = np.array([-0.7, 0.0, 3.0])
    found = estimate_batch(spectral_radius, slopes[:, None, None])
    np.testing.assert_allclose(found, np.abs(slopes), rtol=1e-12)


def hidden(matrix, seed=0):
    """An orthogonal similarity: the same spectrum, no triangle to see."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=matrix.shape))
    return basis @ matrix @ basis.T


def test_what_is_left_of_an_invariant_subspace_spans_nothing():
    # it is rounding, a direction in which a map that is far from normal stretches more than its
    # radius; 64 starts
    matrix = hidden(np.diag([0.9, 0.5, -0.3, 0.1]) + 3 * np.triu(np.ones((4, 4)), 1))

    @jax.jit
    @jax.vmap
    def radius(key):
        return spectral_radius(lambda z: z @ matrix.T, jnp.ones((1, 4)), key=key, iterations=9)

    np.testing.assert_allclose(radius(jax.random.split(KEY(0), 64)), 0.9, rtol=1e-6)


def shear(norm):
    """64 features, eigenvalues 0.5, 0.4 and smaller, two of them coupled by the norm."""
    matrix = np.diag(np.concatenate([[0.5, 0.4], np.linspace(-0.3, 0.3, 62)]))
    matrix[0, 1] = norm
    return hidden(matrix)


def plane(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def pair_and_real():
    """64 features, three eigenvalues of modulus 0.9."""
    matrix = np.diag(np.linspace(-0.7, 0.7, 64))
    matrix[:2, :2], matrix[2, 2] = 0.9 * plane(1.0), -0.9
    return hidden(matrix)


# (matrix, radius, relative error in float32 at 30 iterations)
LARGE = {
    "three of one modulus": (pair_and_real(), 0.9, 1e-5),
    "norm 10": (shear(5), 0.5, 1e-4),
    "norm 100": (shear(50), 0.5, 1e-3),
    "Gaussian": (np.random.default_rng(4).normal(size=(64, 64)) / 8, None, 5e-3),
    "orthogonal": (
        0.9 * np.linalg.qr(np.random.default_rng(6).normal(size=(64, 64)))[0],
        0.9,
        5e-2,
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thirty_iterations_suffice_for_64_features(dtype):
    matrices = np.stack([matrix for matrix, _, _ in LARGE.values()]).astype(dtype)
    found = estimate_batch(spectral_radius, matrices, iterations=30)
    assert found.dtype == dtype
    for (name, (matrix, radius, bound)), value in zip(LARGE.items(), found, strict=True):
        expected = np.abs(np.linalg.eigvals(matrix)).max() if radius is None else radius
        assert value == pytest.approx(expected, rel=bound), name


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_samples_do_not_know_of_each_other(estimate):
    matrices = np.random.default_rng(5).normal(size=(4, 5, 5))
    together = estimate_batch(estimate, matrices)
    # nor does their place in the batch matter
    np.testing.assert_allclose(estimate_batch(estimate, matrices[::-1])[::-1], together, rtol=1e-12)
    matrices[1, 2, 3] = np.nan
    found = estimate_batch(estimate, matrices)
    assert np.isnan(found[1])
    np.testing.assert_array_equal(np.delete(found, 1), np.delete(together, 1))


def test_the_norm_of_an_input_output_jacobian():
    f = partial(heads, gain=1.3)
    found = jax.jit(lambda x: spectral_norm(f, x, key=KEY(12), iterations=200))(jnp.asarray(POINT))
    expected = np.linalg.norm(dense_jacobians(f, POINT), 2, axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_bfloat16_layers_are_estimated_in_float32(estimate):
    matrix = jnp.asarray(np.diag([0.75, -0.5, 0.25]), jnp.bfloat16)
    radius = jax.jit(partial(estimate, lambda z: z @ matrix, key=KEY(13)))
    found = radius(jnp.ones((2, 3), jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 0.75, rtol=1e-2)


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_estimates_in_shard_map_are_those_of_one_device(estimate):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    gains = jnp.linspace(0.5, 2.0, 8)[:, None]
    spec = jax.sharding.PartitionSpec("data")

    def local(gains):
        # z is the same everywhere, and only what f closes over varies
        z = jnp.zeros((len(gains), 3))
        return estimate(lambda z: gains * z, z, key=KEY(14), iterations=5)

    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec))(gains)
    np.testing.assert_allclose(sharded, gains[:, 0], rtol=1e-12)


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_a_nonlinear_map_is_linearized_at_the_point(estimate):
    f = partial(layer, matrix=MATRIX, gain=1.3)
    found = jax.jit(lambda z: estimate(f, z, key=KEY(7), iterations=300))(jnp.asarray(POINT))
    jacobians = dense_jacobians(f, POINT)
    if estimate is spectral_radius:
        expected = np.abs(np.linalg.eigvals(jacobians)).max(axis=1)
    else:
        expected = np.linalg.norm(jacobians, 2, axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_dict_state_has_one_spectrum():
    problem = coupled_dict()
    z0, args = problem.cast(float)
    f = partial(affine_dict, matrix=args[0], offset=args[1])
    radius = jax.jit(lambda z: spectral_radius(f, z, key=KEY(8), iterations=80))(z0)
    norm = jax.jit(lambda z: spectral_norm(f, z, key=KEY(8), iterations=80))(z0)
    np.testing.assert_allclose(radius, 0.7, rtol=1e-4)
    np.testing.assert_allclose(norm, 0.7, rtol=1e-4)


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_spectra_carry_no_gradient(estimate):
    def total(gain):
        return estimate(layer, POINT, MATRIX, gain, key=KEY(9), iterations=2).sum()

    assert jax.jit(jax.grad(total))(1.3) == 0


def test_keys_among_the_arguments_pass_through():
    def f(z, key):
        return z * jax.random.bernoulli(key, 0.5, z.shape).astype(z.dtype)

    found = jax.jit(spectral_radius, static_argnums=0)(f, jnp.ones((2, 64)), KEY(10), key=KEY(11))
    np.testing.assert_allclose(found, 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"mode": "jpv"}, "mode must be 'jvp' or 'vjp', got 'jpv'"),
        ({"distribution": "gauss"}, "distribution must be .*, got 'gauss'"),
    ],
)
def test_a_wrong_option_of_the_penalty_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        jacobian_penalty(lambda z: z, jnp.ones((2, 3)), key=KEY(0), **options)


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_too_few_iterations_are_refused(estimate):
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        estimate(lambda z: z, jnp.ones((2, 3)), key=KEY(0), iterations=0)


@pytest.mark.parametrize("estimate", [jacobian_penalty, spectral_radius, spectral_norm])
def test_a_state_of_integers_is_refused(estimate):
    with pytest.raises(TypeError, match="has dtype int64: a state must be floating point"):
        estimate(lambda z: z, jnp.ones((2, 3), int), key=KEY(0))


def test_a_radius_needs_a_square_jacobian():
    with pytest.raises(ValueError, match=r"f changes the shape of z from \(2, 3\) to \(2, 2\)"):
        spectral_radius(lambda z: z[:, :2], jnp.ones((2, 3)), key=KEY(0))
