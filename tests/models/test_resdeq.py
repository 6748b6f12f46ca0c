"""The single-scale equilibrium model: its cells, its stages, its gradients, its contraction."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deqjax as dq
from deqjax.models import ContractiveCell, ResDEQ, ResidualCell, ResidualShape, SolverSettings
from deqjax.models._resdeq import PooledHead

BATCH, SIZE = 2, 6
SHAPE = ResidualShape(channels=(4,), groups=2, classes=3, input_channels=2)
STAGES = dataclasses.replace(SHAPE, channels=(4, 8), pooled_grid=3)
CONTRACTIVE = dataclasses.replace(SHAPE, contraction=0.8)
SETTINGS = SolverSettings(
    "anderson", max_steps=60, tol=1e-6, history=3, backward_max_steps=60, backward_tol=1e-6
)
UNROLLED = SolverSettings("picard", adjoint="unrolled", max_steps=60, tol=0)


def images(seed=0, size=SIZE):
    return jax.random.normal(jax.random.key(seed), (BATCH, size, size, SHAPE.input_channels))


@cache
def built(shape, settings=SETTINGS):
    return nnx.split(ResDEQ(shape, settings, rngs=nnx.Rngs(0)), nnx.Param, ...)


def loss_of(prediction):
    return jnp.sum(jnp.sin(prediction.logits))


@cache
def predicted(shape):
    """Prediction, f(z*) and the gradients of a loss: solved, and unrolled for very many steps."""
    graph, parameters, rest = built(shape)
    through_the_loop = built(shape, UNROLLED)[0]

    def model(graph, parameters):
        return nnx.merge(graph, parameters, rest, copy=True)

    def solve(parameters, probes):
        prediction = model(graph, parameters)(images(), probes=probes)
        again = [f(solution.value, u) for f, u, solution in prediction.equilibria]
        solutions = [each.solution for each in prediction.equilibria]
        return loss_of(prediction), (prediction.logits, solutions, again)

    @jax.jit
    def run(parameters, probes):
        gradient = jax.grad(solve, argnums=(0, 1), has_aux=True)(parameters, probes)
        unrolled = jax.grad(lambda p: loss_of(model(through_the_loop, p)(images())))(parameters)
        return *gradient, unrolled

    probes = tuple(dq.backward_probe(BATCH) for _ in shape.channels)
    (gradient, reports), found, unrolled = run(parameters, probes)
    return found, gradient, unrolled, reports


# the cells


def normed(x, groups, scale, bias):
    """Group norm, by the loop over samples and groups."""
    result = np.empty_like(x)
    for row in range(len(x)):
        for part in np.split(np.arange(x.shape[-1]), groups):
            values = x[row][..., part]
            result[row][..., part] = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
    return result * np.asarray(scale) + np.asarray(bias)


def correlated(x, kernel):
    """3x3, zero-padded, by nine shifted products."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ np.asarray(kernel)[i, j]
        for i in range(3)
        for j in range(3)
    )


def random(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@nnx.jit
def apply(cell, z, x):
    return cell(z, cell.prepare(x))


def test_the_residual_cell_is_its_formula():
    shape = dataclasses.replace(SHAPE, hidden=1.5, groups=2)
    cell = ResidualCell(shape, 0, rngs=nnx.Rngs(0))
    for seed, affine in enumerate(cell.affine):
        affine.scale[...] = random(*affine.scale.shape, seed=seed)
        affine.bias[...] = random(*affine.bias.shape, seed=9 + seed)
    z, x = (random(BATCH, 5, 5, 4, seed=seed) for seed in (20, 21))
    first, second, last = (each() for each in cell.affine)
    hidden = normed(np.maximum(correlated(z, cell.inner()), 0), 2, *first)
    y = normed(x + correlated(hidden, cell.outer()), 2, *second)
    expected = normed(np.maximum(z + y, 0), 2, *last)
    np.testing.assert_allclose(apply(cell, z, x), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_the_contractive_cell_contracts_whatever_its_weights(scale):
    cell = ContractiveCell(CONTRACTIVE, 0, rngs=nnx.Rngs(0))
    cell.inner.kernel[...] *= scale
    cell.outer.kernel[...] = scale * jnp.abs(cell.outer.kernel[...])
    x = random(BATCH, 5, 5, 4, seed=0)
    for seed in range(5):
        one, other = (10.0**seed * random(BATCH, 5, 5, 4, seed=k) for k in (seed, 50 + seed))
        moved = np.linalg.norm(apply(cell, one, x) - apply(cell, other, x))
        assert moved <= 0.8001 * np.linalg.norm(one - other)


def test_the_jacobian_of_the_contractive_cell_is_below_its_constant():
    cell = ContractiveCell(CONTRACTIVE, 0, rngs=nnx.Rngs(0))
    x = 5 + jnp.asarray(random(1, 5, 5, 4, seed=0))  # no ReLU is shut: nothing else contracts
    u = cell.prepare(x)
    key = jax.random.key(0)
    norm_of = jax.jit(lambda z, u: dq.spectral_norm(cell, z, u, key=key, iterations=30))
    norm = norm_of(jnp.ones_like(x), u)
    assert 0.05 < norm[0] <= 0.8001


def test_plain_iteration_of_the_contractive_model_converges_at_the_certain_rate():
    settings = SolverSettings("picard", max_steps=80, tol=1e-5)
    model = ResDEQ(CONTRACTIVE, settings, rngs=nnx.Rngs(0))
    model.layers[0].cell.inner.kernel[...] *= 100
    solution = nnx.jit(lambda model: model(images()).equilibria[0].solution)(model)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    assert (solution.stats.steps <= np.log(1e-5 / 2) / np.log(0.8) + 1).all()


def test_dropout_leaves_the_contraction():
    shape = dataclasses.replace(CONTRACTIVE, dropout=0.5)
    cell = ContractiveCell(shape, 0, rngs=nnx.Rngs(0))
    u = cell.prepare(5 + jnp.asarray(random(BATCH, 5, 5, 4, seed=0)))
    np.testing.assert_array_equal(np.unique(u.mask), [0, 2])
    one, other = (random(BATCH, 5, 5, 4, seed=seed) for seed in (1, 2))
    moved = np.linalg.norm(cell(one, u) - cell(other, u))
    assert moved <= 0.8001 * np.linalg.norm(one - other)


# the solve and its gradients

EACH = pytest.mark.parametrize(
    "shape", [SHAPE, STAGES, CONTRACTIVE], ids=["one stage", "two stages", "contractive"]
)


@EACH
def test_each_stage_is_solved(shape):
    (logits, solutions, again), *_ = predicted(shape)
    assert logits.shape == (BATCH, 3)
    sizes = [SIZE, SIZE // 2][: len(shape.channels)]
    for solution, image, size, channels in zip(
        solutions, again, sizes, shape.channels, strict=True
    ):
        assert solution.value.shape == (BATCH, size, size, channels)
        assert (solution.stats.status == dq.Status.CONVERGED).all()
        np.testing.assert_allclose(image, solution.value, rtol=0, atol=1e-4)


@EACH
def test_the_gradient_is_that_of_the_unrolled_model(shape):
    _, gradient, unrolled, _ = predicted(shape)
    for (path, found), (_, expected) in zip(
        nnx.to_flat_state(gradient), nnx.to_flat_state(unrolled), strict=True
    ):
        scale = float(jnp.abs(expected[...]).max())
        np.testing.assert_allclose(
            found[...], expected[...], rtol=0, atol=2e-3 * scale + 1e-6, err_msg=str(path)
        )


@EACH
def test_every_parameter_gets_gradient(shape):
    sizes = {
        path: float(jnp.abs(x[...]).max()) for path, x in nnx.to_flat_state(predicted(shape)[1])
    }
    assert {path for path, size in sizes.items() if not 1e-7 < size < np.inf} == set()


@EACH
def test_each_stage_has_a_backward_report(shape):
    for report in predicted(shape)[3]:
        assert (report.status == dq.Status.CONVERGED).all()
        assert (report.steps >= 1).all()


ADJOINTS = {
    "implicit": SETTINGS,
    "jacobian_free": dataclasses.replace(SETTINGS, adjoint="jacobian_free"),
    "neumann": dataclasses.replace(SETTINGS, adjoint="neumann", backward_max_steps=3),
    "phantom": dataclasses.replace(SETTINGS, adjoint="phantom", backward_max_steps=2),
    "shine": dataclasses.replace(SETTINGS, method="broyden", adjoint="shine", max_steps=20),
    "reversible": SolverSettings("reversible", adjoint="reversible", damping=0.5, max_steps=6),
    "unrolled": SolverSettings("picard", adjoint="unrolled", max_steps=6),
}


@pytest.mark.parametrize("name", ADJOINTS)
def test_it_learns_with_every_adjoint(name):
    graph, parameters, rest = built(SHAPE, ADJOINTS[name])
    labels = jnp.array([0, 1])

    def loss(parameters):
        logits = nnx.merge(graph, parameters, rest, copy=True)(images()).logits
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(BATCH), labels])

    @jax.jit
    def step(parameters):
        value, gradient = jax.value_and_grad(loss)(parameters)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, parameters, gradient)

    values = []
    for _ in range(6):
        value, parameters = step(parameters)
        values.append(float(value))
    assert values[-1] < 0.8 * values[0]


def test_the_mask_is_held_for_a_solve_and_none_in_evaluation():
    model = ResDEQ(dataclasses.replace(SHAPE, dropout=0.5), SETTINGS, rngs=nnx.Rngs(0))
    mask = nnx.jit(lambda model: model(images(), max_steps=1).equilibria[0].u.mask)(model)
    assert mask.shape == (BATCH, 1, 1, 4)
    np.testing.assert_allclose(np.unique(mask), [0, 2])
    model.eval()
    assert nnx.eval_shape(lambda model: model(images()).equilibria[0].u.mask, model) is None


def test_bfloat16_is_inside_of_the_cell_only():
    half = dataclasses.replace(SHAPE, dtype="bfloat16")
    model = ResDEQ(half, SETTINGS, rngs=nnx.Rngs(0))
    assert model(images(), layers=1).logits.dtype == jnp.float32
    assert model.layers[0].cell.prepare(jnp.ones((1, 4, 4, 4))).inner.dtype == jnp.bfloat16
    one, other = (ResDEQ(s, SETTINGS, rngs=nnx.Rngs(0))(images(), layers=2) for s in (SHAPE, half))
    assert 1e-6 < np.abs(one.logits - other.logits).max() < 0.1


# what is refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"channels": ()}, "at least one stage"),
        ({"channels": (5,)}, "channels 5 of stage 0 must be a multiple of groups 2"),
        ({"hidden": 0.75}, "hidden channels 3 of stage 0 must be a multiple of groups 2"),
        ({"contraction": 1.0}, "contraction must be less than 1, got 1.0"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"dtype": "float16"}, "dtype must be 'float32', 'bfloat16' or 'mixed', got 'float16'"),
        ({"pooled_grid": 0}, "pooled_grid must be at least 1, got 0"),
        ({"stem_stride": 3}, "stem_stride must be 1 or 2, got 3"),
        ({"dropout": 1.0}, "dropout must be less than 1, got 1.0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(SHAPE, **changes)


def test_the_head_sees_the_means_of_a_grid_of_parts():
    head = PooledHead(SHAPE, rngs=nnx.Rngs(0))
    x = random(BATCH, 6, 4, 4, seed=0)
    means = [x[:, i : i + 3, j : j + 2].mean(axis=(1, 2)) for i in (0, 3) for j in (0, 2)]
    expected = np.concatenate(means, axis=1) @ head.linear.kernel[...] + head.linear.bias[...]
    np.testing.assert_allclose(head(x), expected, rtol=1e-5, atol=1e-6)


def test_images_that_the_grid_does_not_divide_are_refused():
    model = ResDEQ(dataclasses.replace(STAGES, pooled_grid=2), rngs=nnx.Rngs(0))
    sentence = (
        "images of 5 x 8 become features of 3 x 4, which cannot be divided into pooled_grid 2"
    )
    with pytest.raises(ValueError, match=sentence):
        model(jnp.zeros((1, 5, 8, 2)))


def test_a_probe_too_few_is_refused():
    model = ResDEQ(STAGES, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"2 equilibrium layer\(s\) takes as many probes, or none"):
        model(images(), probes=[dq.backward_probe(BATCH)])


def test_a_contractive_cell_needs_its_contraction():
    with pytest.raises(ValueError, match="needs a contraction between 0 and 1, got None"):
        ContractiveCell(SHAPE, 0, rngs=nnx.Rngs(0))


def test_images_of_another_form_are_refused():
    model = ResDEQ(SHAPE, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"must be \(batch, height, width, 2\), got \(2, 6, 6, 3\)"
    ):
        model(jnp.zeros((2, 6, 6, 3)))
