"""Masks that hold still for a solve and change between solves; cells that change are refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from nn_cells import BATCH, WIDTH, MaskCell, TanhCell, injection, leaves, unroll, weights

import deqjax as dq
from deqjax.nn import DEQ, CellStateError, freeze, reseed
from deqjax.nn._freeze import streams
from deqjax.solvers import anderson, picard


def masks(cell, rows=1):
    """The masks that the next call of a layer around this MaskCell would use."""
    u, z = injection(), jnp.zeros((BATCH, rows * WIDTH))
    return np.asarray(DEQ(cell).freeze(u, z)(z, u))


def counts(module):
    return [int(stream.count[...]) for stream in streams(module).values()]


def half_dropped(**options):
    return DEQ(TanhCell(scale=0.4, dropout=0.5, **options), solver=picard, max_steps=100)


# one mask for the whole solve


@pytest.mark.parametrize("solver", [picard, partial(anderson, history=2)], ids=["picard", "and."])
def test_a_solve_with_dropout_converges_to_tolerance(solver):
    deq, u = half_dropped(), injection()
    deq.solver = solver
    f = deq.freeze(u)
    solution = deq(u, f=f, tol=1e-5)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    image = f(solution.value, u)
    assert 0.2 < np.mean(image == 0) < 0.8, "dropout must be active"
    residual = jnp.linalg.norm(image - solution.value, axis=1) / jnp.linalg.norm(image, axis=1)
    assert (residual <= 1.1e-5).all()


def test_a_frozen_map_evaluated_twice_is_bitwise_equal():
    u = injection()
    f = half_dropped().freeze(u)
    np.testing.assert_array_equal(f(u, u), f(u, u))
    compiled = jax.jit(f)
    np.testing.assert_array_equal(compiled(u, u), compiled(u, u))
    np.testing.assert_array_equal(compiled(u, u) == 0, f(u, u) == 0)


def test_a_solve_uses_the_masks_of_the_map_it_is_given():
    deq, u = DEQ(MaskCell(), solver=picard), injection()
    f = deq.freeze(u)
    expected = f(jnp.zeros_like(u), u)
    for _ in range(2):
        np.testing.assert_array_equal(deq(u, f=f).value, expected)


@pytest.mark.usefixtures("float64")
def test_gradient_equals_the_unrolled_one_of_the_same_frozen_map():
    deq, u = half_dropped(dtype=jnp.float64), injection()
    deq.adjoint = dq.adjoints.implicit(picard, tol=1e-13, max_steps=200)

    # each differentiates a copy, so both freeze the same masks
    def implicit(deq, u):
        return jnp.sum(weights() * deq(u, f=deq.freeze(u), tol=1e-13, max_steps=200).value)

    def unrolled(deq, u):
        return jnp.sum(weights() * unroll(deq.freeze(u), u, steps=200))

    both = nnx.DiffState(0, nnx.Param), 1
    gradient, in_u = nnx.grad(implicit, argnums=both)(nnx.clone(deq), u)
    expected, expected_in_u = nnx.grad(unrolled, argnums=both)(nnx.clone(deq), u)
    np.testing.assert_allclose(in_u, expected_in_u, rtol=0, atol=1e-11)
    for name, leaf in leaves(expected).items():
        np.testing.assert_allclose(leaves(gradient)[name], leaf, rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.usefixtures("float64")
def test_gradient_with_dropout_equals_finite_differences():
    graph, kernel, rest = nnx.split(
        half_dropped(dtype=jnp.float64), nnx.PathContains("kernel"), ...
    )
    direction = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), kernel)

    @jax.jit
    @jax.value_and_grad
    def along(step):
        moved = jax.tree.map(lambda x, d: x + step * d, kernel, direction)
        deq = nnx.merge(graph, moved, rest, copy=True)
        deq.adjoint = dq.adjoints.implicit(picard, tol=1e-12, max_steps=200)
        return jnp.sum(weights() * deq(injection(), tol=1e-13, max_steps=200).value)

    slope, width = along(0.0)[1], 1e-5
    difference = (along(width)[0] - along(-width)[0]) / (2 * width)
    assert abs(slope) > 0.1
    np.testing.assert_allclose(slope, difference, rtol=1e-7)


# other masks for the next call, and for each layer


def test_the_next_call_draws_another_mask():
    deq, u = DEQ(MaskCell(), solver=picard), injection()
    assert (deq(u).value != deq(u).value).any()


def test_the_next_call_of_a_compiled_step_draws_another_mask():
    deq = DEQ(MaskCell(), solver=picard)
    step = nnx.jit(masks_in_jit)
    first, second = step(deq, injection()), step(deq, injection())
    assert (first != second).any()
    assert counts(deq) == [2]


def masks_in_jit(deq, u):
    return deq(u).value


def test_taking_a_gradient_advances_the_masks():
    deq, u = half_dropped(), injection()
    nnx.grad(lambda deq: jnp.sum(deq(u).value))(deq)
    assert counts(deq) == [1]


def test_layers_of_a_cell_have_masks_of_their_own():
    one, two = np.split(masks(MaskCell(layers=2), rows=2), 2, axis=1)
    assert set(np.unique(one)) == set(np.unique(two)) == {0, 2}
    assert (one != two).any()


def test_a_layer_used_twice_has_a_mask_for_each_use():
    deq, u = DEQ(MaskCell(uses=2), solver=picard), injection()
    f, z = deq.freeze(u, jnp.zeros((BATCH, 2 * WIDTH))), jnp.zeros((BATCH, 2 * WIDTH))
    one, two = np.split(np.asarray(f(z, u)), 2, axis=1)
    assert (one != two).any()
    np.testing.assert_array_equal(f(f(z, u), u), f(z, u))


class SharedStreamCell(nnx.Module):
    """Two dropout calls that take their keys from one stream, held by the cell itself."""

    def __init__(self):
        self.rngs = nnx.Rngs(dropout=0)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, z, u):
        rows = [self.dropout(jnp.ones_like(u), rngs=self.rngs) for _ in range(2)]
        return jnp.concatenate(rows, axis=1) + 0 * z


def test_a_stream_of_the_cell_itself_is_frozen_and_advanced():
    cell = SharedStreamCell()
    first, second = masks(cell, rows=2), masks(cell, rows=2)
    assert (first != second).any()
    one, two = np.split(first, 2, axis=1)
    assert (one != two).any()


def test_freezing_leaves_the_streams_of_the_frozen_map_alone():
    deq, u = DEQ(MaskCell(), solver=picard), injection()
    f = deq.freeze(u)
    before = f(u, u)
    reseed(deq, jax.random.key(5))
    deq.freeze(u)
    np.testing.assert_array_equal(f(u, u), before)


# no draws in evaluation


def test_evaluation_draws_nothing():
    deq, u = half_dropped(), injection()
    deq.eval()
    np.testing.assert_array_equal(deq(u).value, deq(u).value)
    assert counts(deq) == [0]


def test_a_layer_in_evaluation_may_be_closed_over_by_jit():
    deq, u = half_dropped(), injection()
    deq.eval()
    plain = DEQ(TanhCell(scale=0.4), solver=picard)
    np.testing.assert_allclose(jax.jit(lambda u: deq(u).value)(u), plain(u).value, atol=1e-6)


def test_only_streams_drawn_from_advance():
    cell = MaskCell(layers=2)
    cell.layers[1].deterministic = True
    masks(cell, rows=2)
    assert counts(cell) == [1, 0]


# cells that change


class Normalized(nnx.Module):
    def __init__(self, **options):
        self.norm = nnx.BatchNorm(WIDTH, rngs=nnx.Rngs(0), **options)

    def __call__(self, z, u):
        return 0.5 * jnp.tanh(self.norm(z)) + u


class Counting(nnx.Module):
    def __init__(self):
        self.calls = nnx.Variable(jnp.int32(0))

    def __call__(self, z, u):
        self.calls[...] += 1
        return 0.5 * jnp.tanh(z) + u


class OwnKey(nnx.Module):
    """Keeps a key outside of any stream, where nobody could advance it."""

    def __init__(self):
        self.secret = nnx.RngKey(jax.random.key(0), tag="secret")

    def __call__(self, z, u):
        key, self.secret[...] = jax.random.split(self.secret[...])
        return 0.5 * jnp.tanh(z) + jax.random.normal(key, u.shape)


@pytest.mark.parametrize(
    ("cell", "variable"),
    [
        (Normalized, r"BatchStat 'norm\.(mean|var)'"),
        (Counting, "Variable 'calls'"),
        (OwnKey, "RngKey 'secret'"),
    ],
)
def test_a_cell_that_changes_its_state_is_refused(cell, variable):
    with pytest.raises(CellStateError, match=f"updates its {variable} while it is iterated"):
        DEQ(cell())(injection())


def test_the_refusal_names_the_way_out_and_leaves_the_cell_as_it_was():
    cell = Normalized()
    with pytest.raises(CellStateError, match="use_running_average=True"):
        DEQ(cell).freeze(injection())
    np.testing.assert_array_equal(cell.norm.mean[...], jnp.zeros(WIDTH))


def test_batch_norm_with_running_averages_works():
    deq, u = DEQ(Normalized(use_running_average=True), solver=picard, tol=1e-5), injection()
    value = deq(u).value
    np.testing.assert_allclose(value, deq.cell(value, u), rtol=0, atol=1e-4)


def test_freezing_leaks_no_tracer():
    with jax.checking_leaks():
        nnx.jit(lambda cell: freeze(cell, injection(), injection())(0, injection()))(MaskCell())


# reseed


def reseeded(key, layers=2):
    cell = MaskCell(layers)
    masks(cell, rows=layers)  # counters that are not at zero any more
    reseed(cell, key)
    return masks(cell, rows=layers)


def test_one_key_gives_one_set_of_masks():
    np.testing.assert_array_equal(reseeded(jax.random.key(7)), reseeded(jax.random.key(7)))
    fresh = MaskCell(2)
    reseed(fresh, jax.random.key(7))
    np.testing.assert_array_equal(reseeded(jax.random.key(7)), masks(fresh, rows=2))


def test_another_key_gives_other_masks():
    assert (reseeded(jax.random.key(7)) != reseeded(jax.random.key(8))).any()


def test_streams_are_reseeded_with_keys_of_their_own():
    one, two = np.split(reseeded(jax.random.key(7)), 2, axis=1)
    assert (one != two).any()


def test_reseeding_works_on_a_traced_key():
    @jax.jit
    def compiled(key):
        cell = MaskCell(2)
        reseed(cell, key)
        u, z = injection(), jnp.zeros((BATCH, 2 * WIDTH))
        return DEQ(cell).freeze(u, z)(z, u)

    np.testing.assert_array_equal(compiled(jax.random.key(7)), reseeded(jax.random.key(7)))
