"""The DEQ-TrellisNet: its cell, its solve, its gradients, its dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from language_models import (
    BATCH,
    LENGTH,
    SETTINGS,
    SHAPE,
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
    zero_state,
)

import deqjax as dq
from deqjax.models._memory import SegmentMemory
from deqjax.models._shape import LanguageShape
from deqjax.models.trellisnet_lm import DEQTrellisNetLM, TrellisNetCell, TrellisNetState

DROPOUT_SHAPE = dataclasses.replace(SHAPE, dropout=0.5)


# the cell


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def given(width=WIDTH):
    """z, the injection, and the memory before, which the second row has not."""
    z = TrellisNetState(*(random(BATCH, LENGTH, width, seed=seed) for seed in (0, 1)))
    states = jnp.asarray(random(BATCH, 1, 2 * width, seed=2))
    memory = SegmentMemory(states, None, jnp.array([1, 0], jnp.int32))
    return z, random(BATCH, LENGTH, 4 * width, seed=3), memory


def random_cell(**changes):
    cell = TrellisNetCell(dataclasses.replace(SHAPE, **changes), rngs=nnx.Rngs(0))
    cell.kernel.kernel[...] = jnp.asarray(random(2 * WIDTH, 4 * WIDTH, seed=4))
    if cell.kernel.gain is not None:
        cell.kernel.gain[...] = jnp.asarray(random(4 * WIDTH, seed=5))
    return cell


@nnx.jit
def apply(cell, z, injection, memory):
    u = cell.prepare(jnp.asarray(injection), memory)
    return cell(z, u), u.mask


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolution_weight(weight):
    """(outputs, inputs, 2), normalized over all axes but the first."""
    v = np.stack(np.split(np.asarray(weight.kernel[...]).T, 2, axis=1), axis=2)
    if weight.gain is None:
        return v
    norms = np.array([np.sqrt((row**2).sum()) for row in v])
    return v * (np.asarray(weight.gain[...]) / norms)[:, None, None]


def cell_in_loops(cell, z, injection, memory, mask):
    """One row and one position at a time."""
    w = convolution_weight(cell.kernel)
    c_new, h_new = np.zeros(z.c.shape), np.zeros(z.h.shape)
    for row, t in np.ndindex(BATCH, LENGTH):
        if t > 0:
            c_before, h_before = z.c[row, t - 1], z.h[row, t - 1]
        elif memory.filled[row]:
            c_before, h_before = np.split(np.asarray(memory.states)[row, -1], 2)
        else:
            c_before = h_before = np.zeros(WIDTH)
        a = w[..., 0] @ (mask[row] * h_before) + w[..., 1] @ (mask[row] * z.h[row, t])
        i, o, g, f = np.split(a + injection[row, t], 4)
        c_new[row, t] = sigmoid(f) * c_before + sigmoid(i) * np.tanh(g)
        h_new[row, t] = sigmoid(o) * np.tanh(c_new[row, t])
    return c_new, h_new


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("weight_norm", [True, False])
def test_the_cell_is_its_formula(weight_norm, dropout):
    cell = random_cell(weight_norm=weight_norm, dropout=dropout)
    result, mask = apply(cell, *given())
    mask = np.ones((BATCH, WIDTH)) if mask is None else np.asarray(mask)[:, 0]
    assert set(np.unique(mask)) == ({0, 2} if dropout else {1})
    c, h = cell_in_loops(cell, *given(), mask)
    np.testing.assert_allclose(result.c, c, rtol=0, atol=1e-5)
    np.testing.assert_allclose(result.h, h, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", range(LENGTH))
def test_a_position_of_the_cell_sees_itself_and_the_one_before(position):
    cell, (z, u, memory) = random_cell(), given()
    other = TrellisNetState(z.c.copy(), z.h.copy())
    other.c[:, position] += 1
    other.h[:, position] += 1
    one, moved = apply(cell, z, u, memory)[0], apply(cell, other, u, memory)[0]
    change = np.abs(one.h - moved.h).max(axis=(0, 2))
    seen = [position, min(position + 1, LENGTH - 1)]
    assert (change[seen] > 0).all()
    assert (np.delete(change, seen) == 0).all()


def test_only_the_last_position_of_a_longer_memory_is_read():
    cell, (z, u, memory) = random_cell(), given()
    longer = memory._replace(states=jnp.concatenate([7 + memory.states, memory.states], axis=1))
    np.testing.assert_array_equal(apply(cell, z, u, longer)[0].h, apply(cell, z, u, memory)[0].h)


# the solve


def test_states_are_the_h_of_the_equilibrium():
    states, _, solution, warm_start = solved("trellisnet", tokens())
    assert states.shape == solution.value.h.shape == solution.value.c.shape
    assert states.shape == (BATCH, LENGTH, WIDTH)
    np.testing.assert_array_equal(states, solution.value.h)
    for last, whole in zip(warm_start, solution.value, strict=True):
        np.testing.assert_array_equal(last, whole[:, -1:])


def test_the_equilibrium_has_the_residual_that_its_statistics_state():
    _, image, solution, _ = solved("trellisnet", tokens(), tol=1e-5)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    residual = relative_residual(solution.value, image)
    np.testing.assert_allclose(residual, solution.stats.residual, rtol=0, atol=1e-6)
    assert (residual <= 1.1e-5).all()


@pytest.mark.parametrize("position", [1, LENGTH - 1])
def test_the_equilibrium_before_a_token_does_not_depend_on_it(position):
    one = solved("trellisnet", tokens())[0]
    other = solved("trellisnet", changed_at(tokens(), position))[0]
    change = np.abs(one - other).max(axis=(0, 2))
    assert (change[:position] < 1e-4).all()
    assert (change[position:] > 1e-3).all()


def test_a_new_tolerance_or_step_limit_compiles_nothing():
    solved("trellisnet", tokens())
    compiled = solve._cache_size()
    loose, tight = (solved("trellisnet", tokens(), tol=tol)[2].stats for tol in (1e-1, 1e-5))
    limited = solved("trellisnet", tokens(), tol=0.0, max_steps=3)[2].stats
    assert solve._cache_size() == compiled
    assert (loose.steps < tight.steps).all()
    assert (limited.steps == 3).all()


def test_a_text_is_read_one_position_at_a_time_from_warm_starts():
    """As generation does; a warm start moves no fixed point."""
    parts = built("trellisnet", SHAPE, SETTINGS)
    memory = nnx.merge(*parts, copy=True).initial_memory(BATCH, 7)

    @jax.jit
    def step(parameters, token, memory, z0):
        prediction = nnx.merge(parts[0], parameters, parts[2], copy=True)(token, memory, z0=z0)
        return prediction.states, prediction.memory, prediction.warm_start

    text, z0, states = tokens(), zero_state("trellisnet", (BATCH, 1)), []
    for position in range(LENGTH):
        state, memory, z0 = step(parts[1], text[:, position : position + 1], memory, z0)
        states.append(state)
    empty = nnx.merge(*parts, copy=True).initial_memory(BATCH)
    zero = zero_state("trellisnet", text.shape)
    expected = solve(*parts, text, empty, zero, 1e-6, 40)[0]
    np.testing.assert_allclose(jnp.concatenate(states, axis=1), expected, rtol=0, atol=1e-5)


def test_layers_apply_the_cell_so_many_times():
    graph, *state = built("trellisnet")

    @jax.jit
    def both(state):
        model = nnx.merge(graph, *state, copy=True)
        memory = some_memory(model)
        prediction = model(tokens(), memory, layers=3)
        u, z = model.inputs(tokens(), memory), zero_state("trellisnet", (BATCH, LENGTH))
        for _ in range(3):
            z = model.deq.cell(z, u)
        assert prediction.equilibrium is None
        return prediction.states, prediction.memory.states, z

    states, kept, expected = both(state)
    np.testing.assert_allclose(states, expected.h, rtol=0, atol=1e-6)
    last = jnp.concatenate([expected.c, expected.h], axis=-1)[:, -1:]
    np.testing.assert_allclose(kept, last, rtol=0, atol=1e-6)


def test_a_solver_and_an_adjoint_of_your_own_are_used():
    used = []

    def solver(f, z0, **limits):
        used.append("solver")
        return dq.solvers.picard(f, z0, **limits)

    def adjoint(f, z0, operands, **options):
        used.append("adjoint")
        return dq.adjoints.jacobian_free()(f, z0, operands, **options)

    model = DEQTrellisNetLM(SHAPE, SETTINGS, solver=solver, adjoint=adjoint, rngs=nnx.Rngs(0))
    jax.eval_shape(lambda tokens: model(tokens).states, tokens())
    assert set(used) == {"solver", "adjoint"}


# gradients


def test_every_parameter_gets_gradient():
    sizes = largest(gradients("trellisnet")[0])
    assert set(sizes) == {
        "deq/cell/kernel/gain",
        "deq/cell/kernel/kernel",
        "embedding/tables/0",
        "injection/bias",
        "injection/kernel",
        "softmax/biases/0",
    }
    assert {name for name, size in sizes.items() if not 1e-6 < size < np.inf} == set()


def test_the_gradient_is_that_of_the_unrolled_model():
    gradient, expected = (leaves(state) for state in gradients("trellisnet")[:2])
    for name, leaf in expected.items():
        np.testing.assert_allclose(gradient[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_probe_reports_the_backward_solve():
    report = gradients("trellisnet")[2]
    assert (report.status == dq.Status.CONVERGED).all()
    assert (report.steps >= 1).all()
    assert (report.residual <= 1e-5).all()


def test_the_penalty_is_positive_and_trains_what_shapes_the_jacobian():
    *_, value, gradient = gradients("trellisnet")
    sizes = largest(gradient)
    assert value > 0
    assert {name for name, size in sizes.items() if size == 0} == {"softmax/biases/0"}
    assert np.isfinite(list(sizes.values())).all()


def test_weights_are_only_multiplied_with_inside_the_loops():
    readers = weight_readers("trellisnet")
    inside = {name for name, in_loop in readers if in_loop}
    outside = {name for name, in_loop in readers if not in_loop}
    assert "dot_general" in inside
    assert inside <= {"dot_general", "transpose"}
    assert "mul" in outside


# dropout


def test_one_mask_is_held_for_all_positions_and_none_in_evaluation():
    model = make("trellisnet", DROPOUT_SHAPE)

    @nnx.jit
    def mask(model):
        return model.inputs(tokens(), model.initial_memory(BATCH)).mask

    held = mask(model)
    assert held.shape == (BATCH, 1, WIDTH)
    np.testing.assert_allclose(np.unique(held), [0, 2])
    model.eval()
    assert mask(model) is None


def test_dropout_is_drawn_anew_in_training_and_never_in_evaluation():
    model = make("trellisnet", DROPOUT_SHAPE)

    @nnx.jit
    def states(model):
        return model(tokens(), layers=1).states

    assert (states(model) != states(model)).any()
    model.eval()
    # a draw would be a trace error here
    evaluate = jax.jit(lambda tokens: model(tokens, layers=1).states)
    np.testing.assert_array_equal(evaluate(tokens()), evaluate(tokens()))


def test_the_map_that_is_returned_has_the_masks_of_the_solve():
    parts = built("trellisnet", DROPOUT_SHAPE)
    memory = nnx.merge(*parts, copy=True).initial_memory(BATCH)
    z0 = zero_state("trellisnet", (BATCH, LENGTH))
    states, image, solution, _ = solve(*parts, tokens(), memory, z0, 1e-5, 80)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    for part, expected in zip(image, solution.value, strict=True):
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-4)
    # before the softmax h is dropped too, alike at all positions
    dropped = np.asarray(states == 0)
    assert 0 < dropped.mean() < 1
    assert (dropped == dropped[:, :1]).all()


# sizes and precision


def test_a_plain_language_shape_is_enough():
    shape = LanguageShape(vocabulary=7, width=4)
    model = DEQTrellisNetLM(shape, SETTINGS, rngs=nnx.Rngs(0))
    memory = model.initial_memory(3)
    assert memory.states.shape == (3, 0, 8)
    prediction = jax.eval_shape(
        lambda tokens: model(tokens)[::2], jax.ShapeDtypeStruct((3, 9), jnp.int32)
    )
    assert prediction[0].shape == (3, 9, 4)
    assert prediction[1].states.shape == (3, 0, 8)


def test_bfloat16_is_inside_of_the_layer_only():
    half = dataclasses.replace(SHAPE, dtype="bfloat16")
    one, other = (built("trellisnet", shape) for shape in (half, SHAPE))
    model = nnx.merge(*one, copy=True)
    memory = model.initial_memory(BATCH)

    def loss(parameters):
        model = nnx.merge(one[0], parameters, one[2], copy=True)
        states = model(tokens(), memory).states
        return jnp.sum(jnp.sin(states)), (states, model.inputs(tokens(), memory).kernel)

    gradient, (states, kernel) = jax.eval_shape(jax.grad(loss, has_aux=True), one[1])
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((one[1], gradient, states)))
    assert kernel.dtype == jnp.bfloat16
    change = np.abs(read(*one, tokens(), memory)[0] - read(*other, tokens(), memory)[0])
    assert 1e-6 < change.max() < 0.05


def test_a_dropout_rate_above_one_is_refused():
    with pytest.raises(ValueError, match=r"dropout rate must lie in \[0, 1\), got 1.5"):
        make("trellisnet", dataclasses.replace(SHAPE, dropout=1.5))
