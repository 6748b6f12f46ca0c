"""The DEQ-Transformer: its cell, its solve, its gradients, its dropout."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from language_models import (
    BATCH,
    HIDDEN,
    LENGTH,
    SETTINGS,
    SHAPE,
    VOCABULARY,
    WIDTH,
    built,
    changed_at,
    gradients,
    largest,
    leaves,
    make,
    read,
    relative_residual,
    solve,
    solved,
    some_memory,
    tokens,
    weight_readers,
)
from transformer_oracle import attention, feed_forward, layer_norm

import deqjax as dq
from deqjax.models._transformer_layer import layer_norm as layer_norm_of_the_layer
from deqjax.models.transformer_lm import DEQTransformerLM, TransformerCell

MEMORY, HORIZON = 3, 5
DROPOUT_SHAPE = dataclasses.replace(SHAPE, dropout=0.5, attention_dropout=0.5)
FILLED = [MEMORY, 1]


# the cell


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_cell(**changes):
    """A cell whose biases and gains are not at their simple start."""
    shape = dataclasses.replace(SHAPE, horizon=HORIZON, **changes)
    cell = TransformerCell(shape, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(5)
    state = nnx.state(cell, nnx.Param)
    nnx.update(cell, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state))
    return cell


def cell_inputs(parts=4):
    """z, the injection, and a memory of states and injection."""
    return (
        random(BATCH, LENGTH, WIDTH),
        random(BATCH, LENGTH, parts * WIDTH, seed=1),
        random(BATCH, MEMORY, WIDTH, seed=2),
        random(BATCH, MEMORY, 3 * WIDTH, seed=3),
    )


@nnx.jit
def apply(cell, z, injection, memory_states, memory_injection):
    filled = jnp.array(FILLED)
    return cell(z, cell.prepare(injection, memory_states, memory_injection, filled, LENGTH))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("pre", [True, False])
def test_the_cell_is_its_formula(pre, residual):
    cell = random_cell(pre_layer_norm=pre, residual_injection=residual)
    z, u, z_memory, u_memory = given = cell_inputs(parts=4 if residual else 3)
    c = np.concatenate([z_memory, z], axis=1)
    injection = np.concatenate([u_memory, u[..., : 3 * WIDTH]], axis=1)
    c = layer_norm(c) if pre else c
    h = z + attention(cell, c, injection, MEMORY, FILLED, HORIZON)
    h = layer_norm(h + u[..., 3 * WIDTH :] if residual else h)
    expected = h + feed_forward(cell, h)
    expected = expected if pre else layer_norm(expected)
    np.testing.assert_allclose(apply(cell, *given), expected, rtol=1e-3, atol=1e-4)


def test_layer_norm_normalizes_and_keeps_the_dtype():
    x = jnp.asarray(3 + 2 * random(BATCH, LENGTH, 16))
    result = layer_norm_of_the_layer(x)
    np.testing.assert_allclose(result.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(result.var(-1), 1, atol=1e-3)
    assert layer_norm_of_the_layer(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("position", range(LENGTH))
def test_a_position_of_the_cell_sees_none_after_it(position):
    cell, (z, u, *memory) = random_cell(), cell_inputs()
    other = z.copy(), u.copy()
    other[0][:, position, 0] += 1
    other[1][:, position] -= 1
    change = np.abs(apply(cell, z, u, *memory) - apply(cell, *other, *memory))
    assert (change[:, :position] == 0).all()
    assert (change[:, position:].max(axis=(0, 2)) > 0).all()


# the solve


def test_states_and_equilibrium_have_a_row_for_each_position():
    states, _, solution, warm_start = solved("transformer", tokens())
    assert states.shape == solution.value.shape == (BATCH, LENGTH, WIDTH)
    assert states.dtype == jnp.float32
    np.testing.assert_array_equal(states, solution.value)
    np.testing.assert_array_equal(warm_start, solution.value[:, -1:])


def test_the_equilibrium_has_the_residual_that_its_statistics_state():
    _, image, solution, _ = solved("transformer", tokens(), tol=1e-5)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    residual = relative_residual(solution.value, image)
    np.testing.assert_allclose(residual, solution.stats.residual, rtol=0, atol=1e-6)
    assert (residual <= 1.1e-5).all()


@pytest.mark.parametrize("position", [1, LENGTH - 1])
def test_the_equilibrium_before_a_token_does_not_depend_on_it(position):
    one = solved("transformer", tokens())[0]
    other = solved("transformer", changed_at(tokens(), position))[0]
    change = np.abs(one - other).max(axis=(0, 2))
    assert (change[:position] < 1e-4).all()
    assert (change[position:] > 1e-3).all()


def test_a_solve_from_its_solution_is_done_at_once():
    cold = solved("transformer", tokens())[2]
    warm = solved("transformer", tokens(), z0=cold.value, tol=1e-5)[2]
    assert (cold.stats.steps > 2).all()
    assert (warm.stats.steps <= 1).all()


def test_a_new_tolerance_or_step_limit_compiles_nothing():
    solved("transformer", tokens())
    compiled = solve._cache_size()
    loose, tight = (solved("transformer", tokens(), tol=tol)[2].stats for tol in (1e-1, 1e-5))
    limited = solved("transformer", tokens(), tol=0.0, max_steps=3)[2].stats
    assert solve._cache_size() == compiled
    assert (loose.steps < tight.steps).all()
    assert (limited.steps == 3).all()


def test_layers_apply_the_cell_so_many_times():
    graph, *state = built("transformer")

    @jax.jit
    def both(state):
        model = nnx.merge(graph, *state, copy=True)
        memory = some_memory(model)
        prediction = model(tokens(), memory, layers=3)
        u, z = model.inputs(tokens(), memory), jnp.zeros((BATCH, LENGTH, WIDTH))
        for _ in range(3):
            z = model.deq.cell(z, u)
        assert prediction.equilibrium is None
        return prediction.states, prediction.memory.states, z

    states, kept, expected = both(state)
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(kept, expected, rtol=0, atol=1e-6)


def test_a_solver_and_an_adjoint_of_your_own_are_used():
    used = []

    def solver(f, z0, **limits):
        used.append("solver")
        return dq.solvers.picard(f, z0, **limits)

    def adjoint(f, z0, operands, **options):
        used.append("adjoint")
        return dq.adjoints.jacobian_free()(f, z0, operands, **options)

    model = DEQTransformerLM(SHAPE, SETTINGS, solver=solver, adjoint=adjoint, rngs=nnx.Rngs(0))
    jax.eval_shape(lambda tokens: model(tokens).states, tokens())
    assert set(used) == {"solver", "adjoint"}


# gradients


def test_every_parameter_gets_gradient():
    sizes = largest(gradients("transformer")[0])
    assert len(sizes) == 19
    assert {name for name, size in sizes.items() if not 1e-6 < size < np.inf} == set()


def test_the_gradient_is_that_of_the_unrolled_model():
    gradient, expected = (leaves(state) for state in gradients("transformer")[:2])
    for name, leaf in expected.items():
        np.testing.assert_allclose(gradient[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_probe_reports_the_backward_solve():
    report = gradients("transformer")[2]
    assert (report.status == dq.Status.CONVERGED).all()
    assert (report.steps >= 1).all()
    assert (report.residual <= 1e-5).all()


def test_the_penalty_is_positive_and_trains_what_shapes_the_jacobian():
    *_, value, gradient = gradients("transformer")
    sizes = largest(gradient)
    assert value > 0
    assert {name for name, size in sizes.items() if size == 0} == {"softmax/biases/0"}
    assert np.isfinite(list(sizes.values())).all()


def test_weights_are_only_multiplied_with_inside_the_loops():
    """Normalization and masks stand before the solve, in both directions."""
    readers = weight_readers("transformer")
    inside = {name for name, in_loop in readers if in_loop}
    outside = {name for name, in_loop in readers if not in_loop}
    assert "dot_general" in inside
    assert inside <= {"dot_general", "transpose"}
    assert "mul" in outside


# dropout


@nnx.jit
def embedded_and_prepared(model):
    return model.embed(tokens()), model.inputs(tokens(), model.initial_memory(BATCH))


@cache
def in_training_and_evaluation():
    model = make("transformer", DROPOUT_SHAPE)
    training = embedded_and_prepared(model)
    model.eval()
    return training, embedded_and_prepared(model)


def test_one_mask_is_held_for_all_positions():
    (_, inputs), _ = in_training_and_evaluation()
    for mask, width in ((inputs.out_mask, WIDTH), (inputs.down_mask, WIDTH)):
        assert mask.shape == (BATCH, 1, width)
        np.testing.assert_allclose(np.unique(mask), [0, 2])
    assert inputs.hidden_mask.shape == (BATCH, 1, HIDDEN)
    assert inputs.attention_mask.shape == (BATCH, SHAPE.heads, LENGTH, 2 * LENGTH)
    assert (inputs.out_mask != inputs.down_mask).any()


def test_the_embedding_is_dropped_alike_at_all_positions():
    (embedded, _), (whole, _) = in_training_and_evaluation()
    dropped = np.asarray(embedded == 0)
    assert 0 < dropped.mean() < 1
    assert (dropped == dropped[:, :1]).all()
    np.testing.assert_allclose(embedded, np.where(dropped, 0, 2 * whole), rtol=1e-6)


MASKS = {
    "out_mask": (BATCH, 1, WIDTH),
    "down_mask": (BATCH, 1, WIDTH),
    "hidden_mask": (BATCH, 1, HIDDEN),
    "attention_mask": (BATCH, SHAPE.heads, LENGTH, MEMORY + LENGTH),
}


@cache
def with_each_mask():
    """f(z) without a mask (None) and with each of them, which drops all of the first row."""
    z, u, *memory = cell_inputs()

    @nnx.jit
    def results(cell):
        inputs = cell.prepare(u, *memory, jnp.array(FILLED), LENGTH)
        masks = {name: jnp.zeros(shape).at[1:].set(1) for name, shape in MASKS.items()}
        each = {name: cell(z, inputs._replace(**{name: mask})) for name, mask in masks.items()}
        return cell(z, inputs), each

    return results(random_cell())


@pytest.mark.parametrize("name", MASKS)
def test_the_cell_applies_each_mask(name):
    without, each = with_each_mask()
    change = np.abs(each[name] - without)
    assert (change[0].max(axis=-1) > 1e-3).all()
    assert change[1:].max() < 1e-5


def test_nothing_is_dropped_in_evaluation():
    _, (_, inputs) = in_training_and_evaluation()
    assert [getattr(inputs, name) for name in MASKS] == [None] * 4


def test_dropout_is_drawn_anew_in_training_and_never_in_evaluation():
    model = make("transformer", DROPOUT_SHAPE)

    @nnx.jit
    def states(model):
        return model(tokens(), layers=1).states

    assert (states(model) != states(model)).any()
    model.eval()
    # a draw would be a trace error here
    evaluate = jax.jit(lambda tokens: model(tokens, layers=1).states)
    np.testing.assert_array_equal(evaluate(tokens()), evaluate(tokens()))


def test_the_map_that_is_returned_has_the_masks_of_the_solve():
    parts = built("transformer", DROPOUT_SHAPE)
    memory = nnx.merge(*parts, copy=True).initial_memory(BATCH)
    z0 = jnp.zeros((BATCH, LENGTH, WIDTH))
    states, image, solution, _ = solve(*parts, tokens(), memory, z0, 1e-5, 80)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    np.testing.assert_allclose(image, solution.value, rtol=0, atol=1e-4)
    # before the softmax z* is dropped too, alike at all positions
    dropped = np.asarray(states == 0)
    assert 0 < dropped.mean() < 1
    assert (dropped == dropped[:, :1]).all()


# lower precision


def test_bfloat16_is_inside_of_the_layer_only():
    half = dataclasses.replace(SHAPE, dtype="bfloat16")
    one, other = (built("transformer", shape) for shape in (half, SHAPE))
    model = nnx.merge(*one, copy=True)
    memory = model.initial_memory(BATCH)

    def loss(parameters):
        model = nnx.merge(one[0], parameters, one[2], copy=True)
        states = model(tokens(), memory).states
        return jnp.sum(jnp.sin(states)), (states, model.inputs(tokens(), memory).qkv)

    gradient, (states, kernel) = jax.eval_shape(jax.grad(loss, has_aux=True), one[1])
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((one[1], gradient, states)))
    assert kernel.dtype == jnp.bfloat16
    change = np.abs(read(*one, tokens(), memory)[0] - read(*other, tokens(), memory)[0])
    assert 1e-6 < change.max() < 0.1


# what is refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 3}, "width 8 must be a multiple of heads 3"),
        ({"heads": 0}, "width 8 must be a multiple of heads 0"),
        ({"dropout": 1.5}, r"dropout rate must lie in \[0, 1\), got 1.5"),
        ({"attention_dropout": 1.0}, r"dropout rate must lie in \[0, 1\), got 1.0"),
        ({"cutoffs": (VOCABULARY + 1,)}, "cutoffs"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("transformer", dataclasses.replace(SHAPE, **changes))
