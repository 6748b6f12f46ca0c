"""What each equilibrium language model must do: solve, differentiate, drop, remember."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from language_models import (
    BATCH,
    LENGTH,
    MODELS,
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
)

import deqjax as dq

EACH = pytest.mark.parametrize("kind", MODELS)
DROPOUT_SHAPE = dataclasses.replace(SHAPE, dropout=0.5, attention_dropout=0.5)


def read_out(z):
    """What the softmax reads: of a TrellisNet's state, h."""
    return getattr(z, "h", z)


# the solve


@EACH
def test_the_states_are_what_the_softmax_reads_of_the_equilibrium(kind):
    states, _, solution = solved(kind, tokens())
    assert states.shape == (BATCH, LENGTH, WIDTH)
    assert states.dtype == jnp.float32
    np.testing.assert_array_equal(states, read_out(solution.value))


@EACH
def test_a_solve_starts_from_zeros_like_the_equilibrium(kind):
    model = nnx.merge(*built(kind, SHAPE, SETTINGS), copy=True)
    value, zeros = solved(kind, tokens())[2].value, model.zero_state(BATCH, LENGTH)
    assert jax.tree.map(jnp.shape, zeros) == jax.tree.map(jnp.shape, value)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(zeros))


@EACH
def test_the_equilibrium_has_the_residual_that_its_statistics_state(kind):
    _, image, solution = solved(kind, tokens(), tol=1e-5)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    residual = relative_residual(solution.value, image)
    np.testing.assert_allclose(residual, solution.stats.residual, rtol=0, atol=1e-6)
    assert (residual <= 1.1e-5).all()


@EACH
@pytest.mark.parametrize("position", [1, LENGTH - 1])
def test_the_equilibrium_before_a_token_does_not_depend_on_it(kind, position):
    one = solved(kind, tokens())[0]
    other = solved(kind, changed_at(tokens(), position))[0]
    change = np.abs(one - other).max(axis=(0, 2))
    assert (change[:position] < 1e-4).all()
    assert (change[position:] > 1e-3).all()


@EACH
def test_a_solve_from_its_solution_is_done_at_once(kind):
    cold = solved(kind, tokens())[2]
    warm = solved(kind, tokens(), z0=cold.value, tol=1e-5)[2]
    assert (cold.stats.steps > 2).all()
    assert (warm.stats.steps <= 1).all()


@EACH
def test_a_text_is_read_one_position_at_a_time_from_another_start(kind):
    """As generation does: a start moves no fixed point."""
    graph, parameters, rest = parts = built(kind, SHAPE, SETTINGS)
    model = nnx.merge(*parts, copy=True)

    @jax.jit
    def step(parameters, token, memory, z0):
        prediction = nnx.merge(graph, parameters, rest, copy=True)(token, memory, z0=z0)
        return prediction.states, prediction.memory, prediction.equilibrium.solution.value

    text, states = tokens(), []
    memory, z0 = model.initial_memory(BATCH, 7), model.zero_state(BATCH, 1)
    for position in range(LENGTH):
        state, memory, z0 = step(parameters, text[:, position : position + 1], memory, z0)
        states.append(state)
    empty, zero = model.initial_memory(BATCH), model.zero_state(*text.shape)
    expected = solve(*parts, text, empty, zero, 1e-6, 40)[0]
    np.testing.assert_allclose(jnp.concatenate(states, axis=1), expected, rtol=0, atol=1e-5)


@EACH
def test_a_new_tolerance_or_step_limit_compiles_nothing(kind):
    solved(kind, tokens())
    compiled = solve._cache_size()
    loose, tight = (solved(kind, tokens(), tol=tol)[2].stats for tol in (1e-1, 1e-5))
    limited = solved(kind, tokens(), tol=0.0, max_steps=3)[2].stats
    assert solve._cache_size() == compiled
    assert (loose.steps < tight.steps).all()
    assert (limited.steps == 3).all()


@EACH
def test_layers_apply_the_cell_so_many_times(kind):
    graph, *state = built(kind)

    @jax.jit
    def both(state):
        model = nnx.merge(graph, *state, copy=True)
        memory = some_memory(model)
        prediction = model(tokens(), memory, layers=3)
        u, z = model.inputs(tokens(), memory), model.zero_state(BATCH, LENGTH)
        for _ in range(3):
            z = model.deq.cell(z, u)
        assert prediction.equilibrium is None
        # a TrellisNet remembers both of its last position, a Transformer all of them
        z = jnp.concatenate(jax.tree.leaves(z), axis=-1)
        return prediction.states, prediction.memory.states, z

    states, kept, expected = both(state)
    np.testing.assert_allclose(states, expected[..., -WIDTH:], rtol=0, atol=1e-6)
    assert kept.shape[1] == (1 if kind == "trellisnet" else LENGTH)
    np.testing.assert_allclose(kept, expected[:, -kept.shape[1] :], rtol=0, atol=1e-6)


@EACH
def test_a_solver_and_an_adjoint_of_your_own_are_used(kind):
    used = []

    def solver(f, z0, **limits):
        used.append("solver")
        return dq.solvers.picard(f, z0, **limits)

    def adjoint(f, z0, operands, **options):
        used.append("adjoint")
        return dq.adjoints.jacobian_free()(f, z0, operands, **options)

    model = MODELS[kind](SHAPE, SETTINGS, solver=solver, adjoint=adjoint, rngs=nnx.Rngs(0))
    jax.eval_shape(lambda tokens: model(tokens).states, tokens())
    assert set(used) == {"solver", "adjoint"}


# gradients

TRELLISNET_PARAMETERS = {
    "deq/cell/kernel/gain",
    "deq/cell/kernel/kernel",
    "embedding/tables/0",
    "injection/bias",
    "injection/kernel",
    "softmax/biases/0",
}


@EACH
def test_every_parameter_gets_gradient(kind):
    sizes = largest(gradients(kind)[0])
    if kind == "trellisnet":
        assert set(sizes) == TRELLISNET_PARAMETERS
    else:
        assert len(sizes) == 19
    assert {name for name, size in sizes.items() if not 1e-6 < size < np.inf} == set()


@EACH
def test_the_gradient_is_that_of_the_unrolled_model(kind):
    gradient, expected = (leaves(state) for state in gradients(kind)[:2])
    for name, leaf in expected.items():
        np.testing.assert_allclose(gradient[name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)


@EACH
def test_the_probe_reports_the_backward_solve(kind):
    report = gradients(kind)[2]
    assert (report.status == dq.Status.CONVERGED).all()
    assert (report.steps >= 1).all()
    assert (report.residual <= 1e-5).all()


@EACH
def test_the_penalty_is_positive_and_trains_what_shapes_the_jacobian(kind):
    *_, value, gradient = gradients(kind)
    sizes = largest(gradient)
    assert value > 0
    assert {name for name, size in sizes.items() if size == 0} == {"softmax/biases/0"}
    assert np.isfinite(list(sizes.values())).all()


@EACH
def test_weights_are_only_multiplied_with_inside_the_loops(kind):
    """Normalization and masks stand before the solve, in both directions."""
    readers = weight_readers(kind)
    inside = {name for name, in_loop in readers if in_loop}
    outside = {name for name, in_loop in readers if not in_loop}
    assert "dot_general" in inside
    assert inside <= {"dot_general", "transpose"}
    assert "mul" in outside


# dropout


@EACH
def test_dropout_is_drawn_anew_in_training_and_never_in_evaluation(kind):
    model = make(kind, DROPOUT_SHAPE)

    @nnx.jit
    def states(model):
        return model(tokens(), layers=1).states

    assert (states(model) != states(model)).any()
    model.eval()
    # a draw would be a trace error here
    evaluate = jax.jit(lambda tokens: model(tokens, layers=1).states)
    np.testing.assert_array_equal(evaluate(tokens()), evaluate(tokens()))


@EACH
def test_the_map_that_is_returned_has_the_masks_of_the_solve(kind):
    parts = built(kind, DROPOUT_SHAPE)
    model = nnx.merge(*parts, copy=True)
    memory, z0 = model.initial_memory(BATCH), model.zero_state(BATCH, LENGTH)
    states, image, solution = solve(*parts, tokens(), memory, z0, 1e-5, 80)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    for part, expected in zip(*map(jax.tree.leaves, (image, solution.value)), strict=True):
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-4)
    # before the softmax the states are dropped too, alike at all positions
    dropped = np.asarray(states == 0)
    assert 0 < dropped.mean() < 1
    assert (dropped == dropped[:, :1]).all()


# lower precision


@EACH
def test_bfloat16_is_inside_of_the_layer_only(kind):
    half = dataclasses.replace(SHAPE, dtype="bfloat16")
    one, other = (built(kind, shape) for shape in (half, SHAPE))
    model = nnx.merge(*one, copy=True)
    memory = model.initial_memory(BATCH)

    def loss(parameters):
        model = nnx.merge(one[0], parameters, one[2], copy=True)
        states, u = model(tokens(), memory).states, model.inputs(tokens(), memory)
        return jnp.sum(jnp.sin(states)), (states, u.kernel if kind == "trellisnet" else u.qkv)

    gradient, (states, kernel) = jax.eval_shape(jax.grad(loss, has_aux=True), one[1])
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((one[1], gradient, states)))
    assert kernel.dtype == jnp.bfloat16
    change = np.abs(read(*one, tokens(), memory)[0] - read(*other, tokens(), memory)[0])
    assert 1e-6 < change.max() < (0.05 if kind == "trellisnet" else 0.1)
