import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deqjax.training._options import OptimizerConfig
from deqjax.training.step._optimizer import optimizer

PARAMETERS = {
    "matrix": jnp.linspace(-1.0, 2.0, 12).reshape(3, 4),
    "bias": jnp.linspace(-1.0, 1.0, 4),
    "head": {"kernel": jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)},
}


def after_steps(update, count=3):
    """The parameters after some steps whose gradients are the parameters, ever longer."""
    parameters, state = PARAMETERS, update.init(PARAMETERS)
    for step in range(count):
        gradient = jax.tree.map(lambda x, scale=step + 1: scale * x, parameters)
        moves, state = update.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, moves)
    return parameters


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def as_before_muon(kind):
    """What the defaults of adamw and sgd were when there was neither muon nor another schedule."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 50, 600, 3e-3 * 0.05)
    updates = {
        "adamw": optax.adamw(
            rate,
            b2=0.999,
            weight_decay=0.01,
            mask=lambda tree: jax.tree.map(lambda x: x.ndim >= 2, tree),
        ),
        "sgd": optax.chain(
            optax.add_decayed_weights(0.01), optax.sgd(rate, momentum=0.9, nesterov=True)
        ),
    }
    return optax.chain(optax.clip_by_global_norm(1.0), updates[kind])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_defaults_are_what_they_were_bit_for_bit(kind):
    found = after_steps(optimizer(OptimizerConfig(kind=kind), 600))
    assert bits(found) == bits(after_steps(as_before_muon(kind)))
    assert bits(found) != bits(PARAMETERS)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_matrices_decay(kind):
    config = OptimizerConfig(kind=kind, learning_rate=0.1, weight_decay=0.5, warmup_steps=0)
    update = optimizer(config, steps=10)
    still = jax.tree.map(jnp.zeros_like, PARAMETERS)
    updates, _ = update.update(still, update.init(PARAMETERS), PARAMETERS)
    np.testing.assert_allclose(updates["matrix"], -0.05 * PARAMETERS["matrix"], rtol=1e-6)
    np.testing.assert_allclose(
        updates["head"]["kernel"], -0.05 * PARAMETERS["head"]["kernel"], rtol=1e-6
    )
    assert (updates["bias"] == 0).all()


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
def test_the_schedule_moves_every_part_of_every_kind(kind):
    """Twice the rate moves twice as far, nothing in the first step of a warm-up."""
    moved = []
    for rate in (1e-3, 2e-3):
        config = OptimizerConfig(kind, "constant", learning_rate=rate, warmup_steps=2)
        update = optimizer(config, steps=10)
        state = update.init(PARAMETERS)
        first, state = update.update(PARAMETERS, state, PARAMETERS)
        assert all((move == 0).all() for move in jax.tree.leaves(first))
        moved.append(update.update(PARAMETERS, state, PARAMETERS)[0])
    for once, twice in zip(*map(jax.tree.leaves, moved), strict=True):
        assert (once != 0).all()
        np.testing.assert_allclose(2 * once, twice, rtol=1e-5)


def test_long_gradients_are_clipped_before_adam():
    # Adam hides the length of a single gradient, but not its ratio to the one before
    update = optimizer(OptimizerConfig(clip_norm=1.0, weight_decay=0.0, warmup_steps=0), steps=10)
    start = {"w": jnp.zeros((2, 2))}
    unit = {"w": jnp.full((2, 2), 0.5)}
    state = update.init(start)
    _, state = update.update(unit, state, start)
    _, clipped = update.update({"w": 1e6 * unit["w"]}, state, start)
    _, plain = update.update(unit, state, start)
    moments = [optax.tree_utils.tree_get(s, "mu")["w"] for s in (clipped, plain)]
    np.testing.assert_allclose(*moments, rtol=1e-5)


def moved_by_sgd(nesterov, weight_decay):
    """A matrix and a vector after two steps with gradients of ones, at a constant rate of 0.1."""
    config = OptimizerConfig(
        kind="sgd",
        learning_rate=0.1,
        warmup_steps=0,
        final_fraction=1.0,
        weight_decay=weight_decay,
        momentum=0.9,
        nesterov=nesterov,
        clip_norm=1e9,
    )
    update = optimizer(config, 100)
    parameters = {"matrix": jnp.full((2, 2), 3.0), "vector": jnp.full(2, 3.0)}
    state = update.init(parameters)
    for _ in range(2):
        moves, state = update.update(jax.tree.map(jnp.ones_like, parameters), state, parameters)
        parameters = optax.apply_updates(parameters, moves)
    return parameters


def test_momentum_of_sgd_is_nesterovs_or_not():
    # velocities 1 and 1.9; Nesterov moves by 0.9 of the velocity and the gradient
    for nesterov, way in ((False, 1 + 1.9), (True, 1.9 + 2.71)):
        np.testing.assert_allclose(moved_by_sgd(nesterov, 0.0)["vector"], 3 - 0.1 * way, rtol=1e-5)


def test_weight_decay_of_sgd_adds_every_parameter_to_its_gradient():
    first = 1 + 0.5 * 3
    second = 0.9 * first + 1 + 0.5 * (3 - 0.1 * first)
    found = moved_by_sgd(False, 0.5)
    for leaf in found.values():
        np.testing.assert_allclose(leaf, 3 - 0.1 * (first + second), rtol=1e-5)
