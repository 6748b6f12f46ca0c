"""The DEQ-Transformer and its explicit twin."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deqjax as dq
from deqjax.models import (
    DEQTransformerLM,
    ExplicitTransformerLM,
    SolverSettings,
    TransformerCell,
    TransformerShape,
)

BATCH, LENGTH, VOCABULARY, WIDTH = 2, 5, 11, 8
SHAPE = TransformerShape(VOCABULARY, 6, WIDTH, heads=2, hidden=12, weight_scale=0.1)
DROPOUT_SHAPE = dataclasses.replace(SHAPE, dropout=0.5)
SETTINGS = SolverSettings(
    max_steps=40, tol=1e-5, backward_max_steps=40, backward_tol=1e-5, history=2
)


def tokens(seed=0, batch=BATCH):
    return jax.random.randint(jax.random.key(seed), (batch, LENGTH), 0, VOCABULARY)


def equilibrium_model(shape=SHAPE, settings=SETTINGS):
    return DEQTransformerLM(shape, settings, rngs=nnx.Rngs(0))


def explicit_model(depth=2, shape=SHAPE):
    return ExplicitTransformerLM(shape, depth, rngs=nnx.Rngs(0))


@cache
def split_model():
    return nnx.split(equilibrium_model())


@jax.jit
def predict(state, tokens, z0, tol):
    """Logits, residual recomputed with the returned map, and the solution."""
    model = nnx.merge(split_model()[0], state, copy=True)
    prediction = model(tokens, z0=z0, tol=tol)
    f, u, solution = prediction.equilibrium
    image = f(solution.value, u)
    change = jnp.linalg.norm((image - solution.value).reshape(len(tokens), -1), axis=1)
    size = jnp.linalg.norm(image.reshape(len(tokens), -1), axis=1)
    return prediction.logits, change / size, solution


def predicted(tokens, z0=None, tol=1e-5):
    z0 = jnp.zeros((*tokens.shape, WIDTH)) if z0 is None else z0
    return predict(split_model()[1], tokens, z0, tol)


def dropped(make, name):
    """A module with dropout on in one place only, and all off."""
    modules = [make(DROPOUT_SHAPE, rngs=nnx.Rngs(0)) for _ in range(2)]
    for module in modules:
        module.eval()
    getattr(modules[0], name).deterministic = False
    return modules


def changed_at(tokens, position):
    return tokens.at[:, position].set((tokens[:, position] + 1) % VOCABULARY)


def parameter_leaves(state):
    return {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}


# the cell


def cell_inputs():
    z, u = jax.random.split(jax.random.key(3))
    return (
        jax.random.normal(z, (BATCH, LENGTH, WIDTH)),
        jax.random.normal(u, (BATCH, LENGTH, 4 * WIDTH)),
    )


def test_the_cell_keeps_the_shape_and_normalizes():
    z, u = cell_inputs()
    result = np.asarray(TransformerCell(SHAPE, rngs=nnx.Rngs(0))(z, u))
    assert result.shape == z.shape
    np.testing.assert_allclose(result.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(result.var(-1), 1, atol=1e-3)


def test_the_cell_is_its_formula():
    cell = TransformerCell(SHAPE, rngs=nnx.Rngs(0))
    z, u = cell_inputs()

    def norm(x):
        x = np.asarray(x)
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    h = norm(z + cell.attention(z, u[..., : 3 * WIDTH]) + u[..., 3 * WIDTH :])
    np.testing.assert_allclose(cell(z, u), norm(h + cell.feed_forward(h)), rtol=0, atol=1e-5)


def test_the_cell_keeps_bfloat16():
    graph, parameters, rest = nnx.split(TransformerCell(SHAPE, rngs=nnx.Rngs(0)), nnx.Param, ...)
    half, z, u = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (parameters, *cell_inputs()))
    assert nnx.merge(graph, half, rest)(z, u).dtype == jnp.bfloat16


@pytest.mark.parametrize("position", range(LENGTH))
def test_a_position_of_the_cell_sees_none_after_it(position):
    cell = TransformerCell(SHAPE, rngs=nnx.Rngs(0))
    z, u = cell_inputs()
    before, after = cell(z, u), cell(z.at[:, position].add(1.0), u.at[:, position].add(-1.0))
    np.testing.assert_array_equal(before[:, :position], after[:, :position])
    assert (np.abs(before - after)[:, position:].max(axis=(0, 2)) > 0).all()


@pytest.mark.parametrize("name", ["attention_dropout", "feed_forward_dropout"])
def test_the_cell_drops_what_each_half_adds(name):
    with_dropout, without = dropped(TransformerCell, name)
    assert (with_dropout(*cell_inputs()) != without(*cell_inputs())).any()


# the equilibrium model


def test_logits_have_a_row_for_each_position():
    logits, _, solution = predicted(tokens())
    assert logits.shape == (BATCH, LENGTH, VOCABULARY)
    assert logits.dtype == jnp.float32
    assert solution.value.shape == (BATCH, LENGTH, WIDTH)


def test_the_equilibrium_has_the_residual_that_its_statistics_state():
    _, residual, solution = predicted(tokens())
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    np.testing.assert_allclose(residual, solution.stats.residual, rtol=0, atol=1e-6)
    assert (residual <= 1.1e-5).all()


def test_logits_are_the_readout_of_the_equilibrium():
    logits, _, solution = predicted(tokens())
    np.testing.assert_allclose(
        logits, equilibrium_model().readout(solution.value), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("position", [1, LENGTH - 1])
def test_the_equilibrium_before_a_token_does_not_depend_on_it(position):
    one, other = predicted(tokens()), predicted(changed_at(tokens(), position))
    difference = np.abs(one[2].value - other[2].value).max(axis=(0, 2))
    assert (difference[:position] < 1e-4).all()
    assert (difference[position:] > 1e-3).all()


def test_a_solve_from_its_solution_is_done_at_once():
    cold = predicted(tokens())[2]
    warm = predicted(tokens(), z0=cold.value)[2]
    assert (cold.stats.steps > 2).all()
    assert (warm.stats.steps <= 1).all()


def test_a_new_tolerance_compiles_nothing():
    predicted(tokens())
    compiled = predict._cache_size()
    loose, tight = (predicted(tokens(), tol=tol)[2].stats for tol in (1e-1, 1e-5))
    assert predict._cache_size() == compiled
    assert (loose.steps < tight.steps).all()


def test_a_new_step_limit_compiles_nothing():
    traces = []

    @jax.jit
    def steps(state, tokens, max_steps):
        traces.append(None)
        model = nnx.merge(split_model()[0], state, copy=True)
        return model(tokens, tol=0.0, max_steps=max_steps).equilibrium.solution.stats.steps

    for limit in (1, 3):
        assert (steps(split_model()[1], tokens(), limit) == limit).all()
    assert len(traces) == 1


def first_token_loss(logits):
    return -jnp.mean(jax.nn.log_softmax(logits)[:, :, 0])


@cache
def gradients():
    """Gradients of a loss, of the same loss unrolled, and of the penalty alone."""
    graph, parameters, rest = nnx.split(equilibrium_model(), nnx.Param, ...)

    @jax.jit
    def both(parameters, probe):
        def prediction(parameters, probe=None):
            return nnx.merge(graph, parameters, rest, copy=True)(tokens(), probe=probe)

        def loss(parameters, probe):
            return first_token_loss(prediction(parameters, probe).logits)

        def unrolled(parameters):
            model = nnx.merge(graph, parameters, rest, copy=True)
            cell, u, z = model.deq.cell, model.inject(tokens()), model.start(tokens())
            z, _ = jax.lax.scan(lambda z, _: (cell(z, u), None), z, length=20)
            return first_token_loss(model.readout(z))

        def penalty(parameters):
            f, u, solution = prediction(parameters).equilibrium
            return dq.jacobian_penalty(f, solution.value, u, key=jax.random.key(5))

        value, of_penalty = jax.value_and_grad(penalty)(parameters)
        of_loss, report = jax.grad(loss, argnums=(0, 1))(parameters, probe)
        return of_loss, jax.grad(unrolled)(parameters), report, value, of_penalty

    return both(parameters, dq.backward_probe(BATCH))


def test_every_parameter_gets_gradient():
    gradient, *_ = gradients()
    norms = {name: float(jnp.abs(leaf).max()) for name, leaf in parameter_leaves(gradient).items()}
    assert len(norms) == 13
    assert {name for name, size in norms.items() if not 1e-6 < size < np.inf} == set()


def test_the_gradient_is_that_of_the_unrolled_model():
    gradient, expected = (parameter_leaves(state) for state in gradients()[:2])
    for name, leaf in expected.items():
        np.testing.assert_allclose(gradient[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_probe_reports_the_backward_solve():
    _, _, report, *_ = gradients()
    assert (report.status == dq.Status.CONVERGED).all()
    assert (report.steps >= 1).all()
    assert (report.residual <= 1e-5).all()


def test_the_penalty_is_positive_and_trains_what_shapes_the_jacobian():
    *_, value, gradient = gradients()
    sizes = {name: float(jnp.abs(leaf).max()) for name, leaf in parameter_leaves(gradient).items()}
    assert value > 0
    untouched = {name for name, size in sizes.items() if size == 0}
    assert untouched == {"readout/bias", "readout/kernel"}
    assert np.isfinite(list(sizes.values())).all()


@pytest.mark.parametrize("make", [equilibrium_model, explicit_model])
def test_tokens_beyond_the_positions_are_refused(make):
    with pytest.raises(ValueError, match="tokens have length 7, the model takes at most 6"):
        make()(jnp.zeros((1, 7), jnp.int32))


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 8 must be a multiple of heads 3"):
        equilibrium_model(TransformerShape(width=8, heads=3))


@pytest.mark.parametrize(
    "make", [equilibrium_model, partial(explicit_model, 1)], ids=["equilibrium", "explicit"]
)
def test_dropout_is_drawn_anew_in_training_and_never_in_evaluation(make):
    model = make(shape=DROPOUT_SHAPE)

    @nnx.jit
    def logits(model):
        return model(tokens()).logits

    assert (logits(model) != logits(model)).any()
    model.eval()
    evaluate = jax.jit(lambda tokens: model(tokens).logits)  # a draw would be a trace error here
    np.testing.assert_array_equal(evaluate(tokens()), evaluate(tokens()))


def test_the_embedding_is_dropped():
    with_dropout, without = dropped(partial(ExplicitTransformerLM, depth=1), "dropout")
    assert (with_dropout.inject(tokens()) != without.inject(tokens())).any()


def test_the_map_that_is_returned_has_the_masks_of_the_solve():
    f, u, solution = equilibrium_model(DROPOUT_SHAPE)(tokens(), tol=1e-4).equilibrium
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    np.testing.assert_allclose(f(solution.value, u), solution.value, rtol=0, atol=1e-2)


# the explicit model


def test_depth_layers_with_weights_of_their_own():
    kernels = [layer.feed_forward.up.kernel[...] for layer in explicit_model(3).layers]
    assert len(kernels) == 3
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (kernels[one] != kernels[other]).any()


@pytest.mark.parametrize("depth", [1, 3])
def test_the_parameters_are_the_shared_ones_and_a_cell_for_each_layer(depth):
    def count(module):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))

    cell = count(TransformerCell(SHAPE, rngs=nnx.Rngs(0)))
    shared = count(equilibrium_model()) - cell
    assert count(explicit_model(depth)) == shared + depth * cell


@pytest.mark.parametrize("position", [1, LENGTH - 1])
def test_explicit_logits_before_a_token_do_not_depend_on_it(position):
    model = explicit_model()
    one, other = model(tokens()).logits, model(changed_at(tokens(), position)).logits
    np.testing.assert_array_equal(one[:, :position], other[:, :position])
    assert (np.abs(one - other)[:, position:].max(axis=(0, 2)) > 0).all()


def test_an_explicit_model_has_no_equilibrium_and_leaves_the_probe_at_zero():
    model = explicit_model()
    assert model(tokens()).equilibrium is None
    report = jax.grad(lambda probe: jnp.sum(model(tokens(), probe=probe).logits))(
        dq.backward_probe(BATCH)
    )
    assert all((leaf == 0).all() for leaf in report)
    assert (report.status == dq.Status.NOT_RUN).all()


def test_depth_must_be_at_least_one():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        explicit_model(0)


def test_tied_layers_approach_the_equilibrium():
    deep, model = explicit_model(10), equilibrium_model()
    for name in ("tokens", "positions", "injection", "readout"):
        nnx.update(getattr(deep, name), nnx.state(getattr(model, name)))
    for layer in deep.layers:
        nnx.update(layer, nnx.state(model.deq.cell))
    logits = jax.jit(lambda tokens: deep(tokens).logits)(tokens())
    np.testing.assert_allclose(logits, predicted(tokens())[0], rtol=0, atol=1e-4)
