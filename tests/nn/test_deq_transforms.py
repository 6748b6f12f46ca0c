"""The equilibrium layer under NNX's own transforms, against the same layers one by one."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from nn_cells import TanhCell, injection, leaves

from deqjax.nn import DEQ
from deqjax.solvers import picard

MEMBERS = 3


class Model(nnx.Module):
    """A layer whose cell has parameters and dropout masks of its own."""

    def __init__(self, rngs, dropout=0.5):
        cell = TanhCell(dropout=dropout)
        cell.linear.kernel[...] *= jax.random.uniform(rngs.params(), (), minval=0.5)
        cell.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.deq = DEQ(cell, solver=picard, tol=1e-5, max_steps=60)

    def __call__(self, u):
        return self.deq(u).value


@nnx.split_rngs(splits=MEMBERS)
@nnx.vmap
def stack(rngs):
    return Model(rngs)


@nnx.vmap(in_axes=(0, None))
def every_member(models, u):
    return models(u)


@nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
def in_turn(u, models):
    return 0.3 * models(u)


def member(models, index):
    """One of the stacked models, with its own parameters and its own random stream."""
    graph, state = nnx.split(models)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[index], state), copy=True)


def square(call):
    return lambda model, u: jnp.sum(jnp.square(call(model, u)))


def call(model, u):
    return model(u)


one_gradient = nnx.jit(nnx.grad(square(call)))


def assert_equal(found, expected, index=...):
    for name, leaf in leaves(expected).items():
        assert np.abs(leaf).max() > 0.1
        np.testing.assert_allclose(leaves(found)[name][index], leaf, rtol=0, atol=1e-3)


# ensembles


def test_an_ensemble_equals_its_members():
    models, u = stack(nnx.Rngs(0)), injection()
    each = [member(models, index)(u) for index in range(MEMBERS)]
    np.testing.assert_allclose(nnx.jit(every_member)(models, u), each, rtol=0, atol=1e-5)


def test_members_of_an_ensemble_draw_masks_of_their_own_and_new_ones_in_the_next_call():
    models, u = stack(nnx.Rngs(0)), injection()
    first, second = (np.asarray(every_member(models, u)) == 0 for _ in range(2))
    assert 0.2 < first.mean() < 0.8, "dropout must be active"
    assert (first[0] != first[1]).any()
    assert (first != second).any()


def test_the_gradient_of_an_ensemble_equals_those_of_its_members():
    models, u = stack(nnx.Rngs(0)), injection()
    expected = [one_gradient(member(models, index), u) for index in range(MEMBERS)]
    gradient = nnx.jit(nnx.grad(square(every_member)))(models, u)
    for index in range(MEMBERS):
        assert_equal(gradient, expected[index], index)


# one layer


def test_remat_leaves_masks_and_gradient_as_they_are():
    rematerialized = nnx.remat(call)
    u = injection()
    gradient = nnx.jit(nnx.grad(square(rematerialized)))(Model(nnx.Rngs(0)), u)
    assert_equal(gradient, one_gradient(Model(nnx.Rngs(0)), u))


def test_a_branch_not_taken_gives_its_own_result_and_one_taken_the_gradient():
    @nnx.jit
    def switched(model, u, on):
        return nnx.cond(on, call, lambda model, u: jnp.zeros_like(u), model, u)

    model, u = Model(nnx.Rngs(0)), injection()
    assert not switched(model, u, False).any()
    gradient = nnx.grad(square(lambda model, u: switched(model, u, True)))(Model(nnx.Rngs(0)), u)
    assert_equal(gradient, one_gradient(Model(nnx.Rngs(0)), u))


# layers in turn


def test_a_scan_over_layers_equals_a_loop_over_them():
    models, u = stack(nnx.Rngs(0)), injection()
    expected = u
    for index in range(MEMBERS):
        expected = 0.3 * member(models, index)(expected)
    np.testing.assert_allclose(nnx.jit(in_turn)(u, models), expected, rtol=0, atol=1e-5)


def test_a_scan_over_layers_gives_each_its_gradient():
    def loop(models, u):
        for index in range(MEMBERS):
            u = 0.3 * member(models, index)(u)
        return u

    u = injection()
    gradient = nnx.jit(nnx.grad(lambda models: jnp.sum(in_turn(u, models))))(stack(nnx.Rngs(0)))
    expected = nnx.jit(nnx.grad(lambda models: jnp.sum(loop(models, u))))(stack(nnx.Rngs(0)))
    for name, leaf in leaves(expected).items():
        np.testing.assert_allclose(leaves(gradient)[name], leaf, rtol=0, atol=1e-4, err_msg=name)
    assert np.abs(leaves(expected)["deq/cell/linear/kernel"]).max() > 1e-2
