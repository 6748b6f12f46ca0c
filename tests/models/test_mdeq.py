"""The multiscale model: solve, differentiate, drop, and keep its statistics out of the solve."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from language_models import largest, leaves, readers_of

import deqjax as dq
from deqjax.models._solver_settings import SolverSettings
from deqjax.models.mdeq._cell import MDEQCell
from deqjax.models.mdeq._model import MDEQ
from deqjax.models.mdeq._shape import MDEQShape
from deqjax.nn import reseed

BATCH, SIZE = 2, 8
SHAPE = MDEQShape(
    channels=(4, 6),
    groups=2,
    expansion=2,
    head_channels=(1, 2),
    final_channels=5,
    classes=3,
    input_channels=3,
)
SETTINGS = SolverSettings(
    max_steps=40, tol=1e-6, backward_max_steps=40, backward_tol=1e-6, history=3
)
SIMPLE = SolverSettings("picard", max_steps=60, tol=1e-6, backward_method="picard")


def images(seed=0, size=SIZE):
    return jax.random.normal(jax.random.key(seed), (BATCH, size, size, 3))


def fill(name, shape, rng):
    """Values with which f is contractive: branch 0 is held by the injection, the others by it."""
    if name.endswith("kernel"):
        return rng.standard_normal(shape) / np.prod(shape[:-1]) ** 0.5
    if name.endswith("contract/gain"):
        return np.full(shape, 0.2)
    if name.endswith("gain"):
        return rng.uniform(0.8, 1.2, shape)
    if name.endswith("scale"):
        sizes = {"inner_affine": 2.5, "fusion/1/0": 1.5, "fusion/0/1": 0.15}
        sizes["blocks/1/outer_affine"] = 0.2
        return next((size for part, size in sizes.items() if part in name), 1.0) * np.ones(shape)
    if name.endswith("var"):
        return rng.uniform(0.5, 1.5, shape)
    return 0.1 * rng.standard_normal(shape)


@cache
def built(shape=SHAPE, settings=SETTINGS, training=False):
    """Graph, parameters and the rest; drawing the real initial values would compile for long."""
    model = nnx.eval_shape(lambda: MDEQ(shape, settings, rngs=nnx.Rngs(0)))
    reseed(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    for path, node in sorted(nnx.iter_graph(model), key=lambda pair: str(pair[0])):
        if isinstance(node, nnx.Param | nnx.BatchStat):
            value = fill("/".join(map(str, path)), node.get_raw_value().shape, rng)
            node.set_value(jnp.asarray(value, jnp.float32))
    (nnx.Module.train if training else nnx.Module.eval)(model)
    return nnx.split(model, nnx.Param, ...)


def model_of(parts):
    return nnx.merge(*parts, copy=True)


@partial(jax.jit, static_argnums=0)
def solve(graph, parameters, rest, images, z0, tol, max_steps):
    """Logits, f(z*) with the returned map, the solution, and the model's other state after."""
    model = nnx.merge(graph, parameters, rest, copy=True)
    prediction = model(images, z0=z0, tol=tol, max_steps=max_steps)
    found = prediction.equilibria[0]
    image = found.f(found.solution.value, found.u)
    return prediction.logits, image, found.solution, nnx.split(model, nnx.Param, ...)[2]


def solved(parts, *, z0=None, tol=1e-6, max_steps=40, seed=0):
    zeros = model_of(parts).zero_state(BATCH, SIZE, SIZE)
    return solve(*parts, images(seed), zeros if z0 is None else z0, tol, max_steps)


# the solve


def test_the_equilibrium_is_a_fixed_point_of_all_branches():
    logits, image, solution, _ = solved(built())
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    assert [leaf.shape for leaf in image] == [(BATCH, 8, 8, 4), (BATCH, 4, 4, 6)]
    for ours, expected in zip(solution.value, image, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)
    assert logits.shape == (BATCH, 3)
    assert logits.dtype == jnp.float32


def test_a_solve_from_its_solution_is_done_at_once_and_limits_compile_nothing():
    cold = solved(built())[2]
    compiled = solve._cache_size()
    warm = solved(built(), z0=cold.value, tol=1e-5)[2]
    limited = solved(built(), tol=0.0, max_steps=3)[2]
    assert solve._cache_size() == compiled
    assert (cold.stats.steps > 2).all()
    assert (warm.stats.steps <= 1).all()
    assert (limited.stats.steps == 3).all()


def test_layers_apply_the_cell_so_many_times():
    graph, *state = built()

    @jax.jit
    def both(state, images):
        model = nnx.merge(graph, *state, copy=True)
        prediction = model(images, layers=2)
        u, z = model.inputs(images), model.zero_state(*images.shape[:3])
        assert prediction.equilibria == ()
        assert len(prediction.unrolled) == 1
        return prediction.logits, model.head(model.deq.cell(model.deq.cell(z, u), u))

    np.testing.assert_allclose(*both(state, images()), rtol=1e-5, atol=1e-6)


def test_a_model_segments_at_the_size_of_its_finest_branch():
    shape = dataclasses.replace(SHAPE, task="segmentation", downsample_times=1, head_channels=())
    model = model_of(built(shape))
    logits = jax.eval_shape(lambda x: model(x, layers=1).logits, images(size=16))
    assert logits.shape == (BATCH, 8, 8, 3)


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({"channels": (4,), "head_channels": (1,)}, 1),
        ({"channels": (2, 4, 4, 6), "head_channels": (1, 1, 1, 1), "downsample_times": 3}, 64),
    ],
    ids=["one_branch", "four_branches"],
)
def test_any_number_of_branches(change, size):
    model = model_of(built(dataclasses.replace(SHAPE, **change)))
    states = jax.eval_shape(lambda x: model(x).equilibria[0].solution.value, images(size=size))
    coarsest = 2 ** (len(states) - 1)
    assert [leaf.shape[1] * 2**i for i, leaf in enumerate(states)] == [coarsest] * len(states)


# gradients


@cache
def gradients():
    """Of a loss, of the same loss unrolled, and the probe's report."""
    graph, parameters, rest = built()
    target = jnp.cos(jnp.arange(BATCH * 3.0)).reshape(BATCH, 3)

    def loss(parameters, probe):
        model = nnx.merge(graph, parameters, rest, copy=True)
        return jnp.sum(model(images(), probes=[probe]).logits * target)

    def unrolled(parameters):
        model = nnx.merge(graph, parameters, rest, copy=True)
        cell, u = model.deq.cell, model.inputs(images())
        zeros = model.zero_state(BATCH, SIZE, SIZE)
        z, _ = lax.scan(lambda z, _: (cell(z, u), None), zeros, length=80)
        return jnp.sum(model.head(z) * target)

    @jax.jit
    def both(parameters, probe):
        gradient, report = jax.grad(loss, argnums=(0, 1))(parameters, probe)
        return gradient, jax.grad(unrolled)(parameters), report

    return both(parameters, dq.backward_probe(BATCH))


def test_every_parameter_gets_gradient():
    sizes = largest(gradients()[0])
    assert len(sizes) == 55
    assert {name for name, size in sizes.items() if not 1e-6 < size < np.inf} == set()


def test_the_gradient_is_that_of_the_unrolled_model():
    gradient, expected = (leaves(state) for state in gradients()[:2])
    for name, leaf in expected.items():
        scale = np.abs(leaf).max()
        np.testing.assert_allclose(gradient[name], leaf, rtol=0, atol=2e-3 * scale, err_msg=name)


def test_the_probe_reports_the_backward_solve():
    report = gradients()[2]
    assert (report.status == dq.Status.CONVERGED).all()
    assert (report.steps >= 1).all()


def training_loss(shape, max_steps=40):
    settings = dataclasses.replace(SIMPLE, max_steps=max_steps, backward_max_steps=max_steps)
    graph, parameters, rest = built(shape, settings, training=True)

    def loss(parameters):
        return jnp.sum(nnx.merge(graph, parameters, rest, copy=True)(images()).logits)

    return jax.grad(loss), parameters


def test_memory_of_the_gradient_does_not_grow_with_the_steps():
    sizes = []
    for steps in (5, 50):
        gradient, parameters = training_loss(SHAPE, steps)
        compiled = jax.jit(gradient).lower(parameters).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[0] == sizes[1] > 0


def test_weights_are_only_convolved_with_inside_the_loops():
    """Normalization and masks stand before the solve, in both directions."""
    gradient, parameters = training_loss(dataclasses.replace(SHAPE, dropout=0.5))
    kernels = [
        leaf for name, leaf in leaves(parameters).items() if "deq" in name and leaf.ndim == 4
    ]
    readers = readers_of(jax.make_jaxpr(gradient)(parameters).jaxpr, {x.shape for x in kernels})
    inside = {name for name, in_loop in readers if in_loop}
    # "rev" turns a kernel round for the convolution's transpose
    assert inside == {"convolution", "rev"}
    assert "mul" in {name for name, in_loop in readers if not in_loop}


def test_nothing_is_concatenated_inside_the_loops():
    gradient, parameters = training_loss(SHAPE)
    states = {(BATCH, 8, 8, 4), (BATCH, 4, 4, 6)}
    readers = readers_of(jax.make_jaxpr(gradient)(parameters).jaxpr, states)
    assert any(in_loop for _, in_loop in readers)
    assert ("concatenate", True) not in readers


# dropout and statistics

DROPOUT = dataclasses.replace(SHAPE, dropout=0.5)


def test_the_map_that_is_returned_has_the_masks_of_the_solve():
    parts = built(DROPOUT, training=True)
    _, image, solution, rest = solved(parts, tol=1e-4)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    for ours, expected in zip(solution.value, image, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-3)
    again = solve(*parts[:2], rest, images(), solution.value, 1e-4, 0)[1]
    assert (again[0] != image[0]).any()


def test_masks_are_elementwise_and_none_are_drawn_in_evaluation():
    model = model_of(built(DROPOUT, training=True))
    masks = nnx.jit(lambda model: [b.mask for b in model.inputs(images()).blocks])(model)
    assert [mask.shape for mask in masks] == [(BATCH, 8, 8, 4), (BATCH, 4, 4, 6)]
    assert set(np.unique(masks[0])) == {0, 2}
    model.eval()
    drawn = nnx.eval_shape(lambda model: [b.mask for b in model.inputs(images()).blocks], model)
    assert drawn == [None, None]


def statistics(rest):
    return {name: leaf for name, leaf in leaves(rest).items() if name.endswith(("mean", "var"))}


def test_statistics_move_once_in_training_however_long_the_solve_is():
    parts = built(DROPOUT, training=True)  # as compiled above
    before, short, long = (
        statistics(rest)
        for rest in (parts[2], *(solved(parts, tol=0.0, max_steps=n)[3] for n in (1, 9)))
    )
    stem = {name for name in before if name.startswith("stem")}
    assert len(stem) == 4
    assert len(before) > len(stem)
    assert all((before[name] != short[name]).any() for name in before)
    for name in stem:
        np.testing.assert_array_equal(short[name], long[name])


def test_statistics_stay_in_evaluation():
    parts = built()
    after = statistics(solved(parts)[3])
    for name, leaf in statistics(parts[2]).items():
        np.testing.assert_array_equal(after[name], leaf)


def test_batch_norms_are_outside_of_the_layer():
    model = model_of(built())
    norms = [path for path, node in nnx.iter_graph(model) if isinstance(node, nnx.BatchNorm)]
    assert {path[0] for path in norms} == {"stem", "head"}
    assert all(
        node.axis_name is None
        for _, node in nnx.iter_graph(model)
        if isinstance(node, nnx.BatchNorm)
    )


# lower precision


def test_bfloat16_is_inside_of_the_layer_only():
    half = built(dataclasses.replace(SHAPE, dtype="bfloat16"))
    graph, parameters, rest = half

    def loss(parameters):
        model = nnx.merge(graph, parameters, rest, copy=True)
        prediction = model(images())
        found = prediction.equilibria[0]
        logits = prediction.logits
        return jnp.sum(logits), (logits, found.solution.value, found.u)

    gradient, (logits, z, u) = jax.eval_shape(jax.grad(loss, has_aux=True), parameters)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((parameters, gradient, logits, z)))
    kernels = [leaf for leaf in jax.tree.leaves(u) if leaf.ndim == 4 and leaf.shape[0] != BATCH]
    assert kernels
    assert all(leaf.dtype == jnp.bfloat16 for leaf in kernels)

    @partial(jax.jit, static_argnums=0)
    def logits_of(graph, parameters, rest):
        return nnx.merge(graph, parameters, rest, copy=True)(images(), layers=2).logits

    change = np.abs(logits_of(*half) - logits_of(*built()))
    assert 1e-6 < change.max() < 0.1


# what is refused


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((1, 8, 6, 3)), "images of 8 x 6 cannot be down-sampled evenly; .* of 4"),
        (np.zeros((1, 8, 8, 1)), r"\(batch, height, width, 3\), got \(1, 8, 8, 1\)"),
        (np.zeros((8, 8, 3)), r"got \(8, 8, 3\)"),
    ],
    ids=["size", "channels", "axes"],
)
def test_images_that_do_not_fit_are_refused(images, sentence):
    model = model_of(built(dataclasses.replace(SHAPE, downsample_times=1)))
    with pytest.raises(ValueError, match=sentence):
        model(images.astype(np.float32))


def test_a_second_probe_is_refused():
    with pytest.raises(ValueError, match="takes as many probes, or none; got 2"):
        model_of(built())(images(), probes=[dq.backward_probe(BATCH)] * 2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channels": ()}, "channels is empty"),
        ({"expansion": 0}, "expansion must be at least 1, got 0"),
        ({"downsample_times": -1}, "downsample_times must be at least 0, got -1"),
        ({"channels": (4, 5)}, "a branch has 5 channels, .* multiple of the 2 groups"),
        ({"channels": (3, 3), "groups": 3}, "groups must be even with several branches, got 3"),
        ({"dropout": 1.0}, "dropout must be less than 1, got 1.0"),
        ({"big_kernels": (1,)}, "big_kernels has 1 entries for 2 branches"),
        ({"big_kernels": (1, 3)}, r"big_kernels\[1\] must be at most 2, got 3"),
        ({"head_channels": (1,)}, r"must be 2 numbers, one per branch, got \(1,\)"),
        ({"task": "detection"}, "got 'detection'"),
        ({"dtype": "float16"}, "got 'float16'"),
    ],
)
def test_shapes_that_make_no_model_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(SHAPE, **change)


def test_a_solver_of_your_own_is_used():
    used = []

    def solver(f, z0, **limits):
        used.append("solver")
        return dq.solvers.picard(f, z0, **limits)

    def build():
        return MDEQ(SHAPE, solver=solver, rngs=nnx.Rngs(0))

    jax.eval_shape(lambda x: build()(x).logits, images())
    assert used


def test_the_first_weights_are_those_of_the_paper():
    shape = dataclasses.replace(SHAPE, channels=(4,), head_channels=(1,), groups=2)
    parameters = nnx.state(MDEQCell(shape, rngs=nnx.Rngs(0)), nnx.Param)
    kernels = {name: leaf for name, leaf in leaves(parameters).items() if name.endswith("kernel")}
    assert all(0.005 < np.std(leaf) < 0.015 for leaf in kernels.values())
    gains = leaves(parameters)["blocks/0/contract/gain"]
    norms = np.linalg.norm(kernels["blocks/0/contract/kernel"].reshape(-1, 4), axis=0)
    np.testing.assert_allclose(gains, norms, rtol=1e-5)
