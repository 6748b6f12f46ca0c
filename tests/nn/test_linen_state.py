"""Linen cells with random streams and other collections, and the layer under lifted transforms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linen_cells import MaskCell, TanhCell, layer, params
from nn_cells import BATCH, WIDTH, injection, unroll

import deqjax as dq
from deqjax.linen import DEQ, CellStateError

KEY = jax.random.key(0)
HALF = layer(TanhCell(0.5))


def dropped(key=KEY):
    return {"dropout": key}


def masks(model, key=KEY):
    u, z0 = injection(), jnp.zeros((BATCH, 4 * WIDTH))
    return np.asarray(model.apply({}, u, z0=z0, rngs=dropped(key)).value)


def test_every_use_has_a_mask_of_its_own_and_a_key_gives_one_set():
    first = masks(layer(MaskCell()))
    parts = np.split(first, 4, axis=1)
    assert all((parts[i] != parts[j]).any() for i in range(4) for j in range(i))
    np.testing.assert_array_equal(masks(layer(MaskCell())), first)
    assert (masks(layer(MaskCell()), jax.random.key(1)) != first).any()


class Twice(nn.Module):
    @nn.compact
    def __call__(self, u):
        deq, z0 = layer(MaskCell()), jnp.zeros((BATCH, 4 * WIDTH))
        return deq(u, z0=z0).value, deq(u, z0=z0).value


def test_the_next_call_draws_another_mask():
    first, second = Twice().apply({}, injection(), rngs=dropped())
    assert (first != second).any()


class Penalized(nn.Module):
    @nn.compact
    def __call__(self, u, by_hand=False):
        deq = layer(TanhCell(0.5))
        f = deq.freeze(u)
        value = unroll(f, u) if by_hand else deq(u, f=f).value
        return value, dq.jacobian_penalty(f, value, u, key=KEY)


def test_solve_gradient_and_penalty_are_those_of_one_frozen_map():
    model, u = Penalized(), injection()
    variables = model.init(KEY, u)

    @jax.jit
    def gradient(variables, u):
        return [
            jax.value_and_grad(
                lambda v, h=h: sum(map(jnp.sum, model.apply(v, u, h, rngs=dropped())))
            )(variables)
            for h in (False, True)
        ]

    (value, found), (expected, reference) = gradient(variables, u)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for name, leaf in params(reference).items():
        np.testing.assert_allclose(params(found)[name], leaf, rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_deterministic_cell_needs_no_key():
    u = injection()
    variables = HALF.init(KEY, u)
    plain = layer(TanhCell()).apply(variables, u).value
    np.testing.assert_allclose(
        HALF.apply(variables, u, deterministic=True).value, plain, rtol=0, atol=1e-6
    )


class Normalized(nn.Module):
    running: bool

    @nn.compact
    def __call__(self, z, u):
        return 0.3 * jnp.tanh(nn.BatchNorm(use_running_average=self.running)(z)) + u


@pytest.mark.parametrize("mutable", [False, ["batch_stats"]])
def test_batch_statistics_are_refused_and_running_averages_read(mutable):
    u = injection()
    variables = layer(Normalized(True)).init(KEY, u)
    layer(Normalized(True)).apply(variables, u, mutable=mutable)
    with pytest.raises(CellStateError, match=r"updates its batch_stats 'cell\.BatchNorm_0\.mean'"):
        layer(Normalized(False)).apply(variables, u, mutable=mutable)


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, z, u):
        mask = nn.Dropout(0.5, deterministic=False)(jnp.ones_like(u))
        self.sow("intermediates", "mask", mask)
        self.sow("intermediates", "state", z)
        return 0.25 * mask * jnp.tanh(z) + u


def test_the_cell_sows_once_at_the_solution_with_the_masks_of_the_solve():
    u = injection()
    solution, seen = layer(Sowing()).apply({}, u, rngs=dropped(), mutable=["intermediates"])
    (mask,), (state,) = (seen["intermediates"]["cell"][name] for name in ("mask", "state"))
    np.testing.assert_array_equal(state, solution.value)
    np.testing.assert_allclose(0.25 * mask * jnp.tanh(state) + u, state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lift", [nn.jit, nn.remat])
def test_jit_and_remat_leave_value_and_gradient_as_they_are(lift):
    plain, u = layer(TanhCell()), injection()  # no dropout: nn.jit folds the keys
    lifted = lift(DEQ)(TanhCell(), solver=plain.solver, tol=plain.tol, max_steps=60)
    variables = plain.init(KEY, u)

    def gradient(model):
        loss = jax.grad(lambda v: jnp.sum(model.apply(v, u).value ** 2))
        return params(jax.jit(loss)(variables))

    found = gradient(lifted)
    for name, leaf in gradient(plain).items():
        np.testing.assert_allclose(found[name], leaf, rtol=1e-3, atol=1e-4)


def test_vmap_makes_an_ensemble_with_masks_of_its_own():
    ensemble = nn.vmap(
        Penalized,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=None,
        axis_size=3,
    )()
    u = injection()
    variables = ensemble.init(KEY, u)
    assert {leaf.shape[0] for leaf in params(variables).values()} == {3}
    zeros = np.asarray(ensemble.apply(variables, u, rngs=dropped())[0]) == 0
    assert (zeros[0] != zeros[1]).any()
