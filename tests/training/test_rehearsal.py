"""A task's loss is followed before anything is compiled: its layers are told, its faults too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from deqjax.nn import DEQ
from deqjax.training import Batch, ConfigError, Loss, PenaltyConfig
from deqjax.training._rehearsal import Layer, rehearse
from deqjax.training.step import Problem, split

ROWS = {"x": np.ones((3, 2), np.float32)}


class Model(nnx.Module):
    """Two equilibrium layers, one of them called twice, and whatever a layer may draw or keep."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = DEQ(lambda z, u: 0.5 * z + u, max_steps=7, tol=0.1)
        self.inner = nnx.Dict(second=DEQ(lambda z, u: 0.1 * z + u, max_steps=9, tol=0.2))
        self.linear = nnx.Linear(2, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.Variable(jnp.int32(0))

    def __call__(self, x):
        x = self.dropout(self.norm(self.linear(x)))
        return self.first(self.inner["second"](self.first(x).value).value).value


def squares(model, rows, memory):
    del memory
    return Loss(model(rows["x"]).sum(axis=1) ** 2)


def rehearsed(loss=squares, rows=ROWS, memory=None, axis_name=None):
    architecture, weights = split(Model(), axis_name)
    problem = Problem(architecture, loss, optax.sgd(0.1), None, PenaltyConfig())
    # what has no values cannot be computed with
    abstract = jax.eval_shape(lambda: weights)
    return rehearse(problem, abstract, Batch(rows, np.ones(3, bool)), memory)


def test_layers_are_listed_in_the_order_of_their_calls():
    first, second = Layer("first", 7, 0.1, 30), Layer("inner.second", 9, 0.2, 30)
    assert rehearsed() == (first, second, first)


def test_normalization_over_replicas_needs_none():
    assert len(rehearsed(axis_name="data")) == 3


def test_a_model_that_solves_nothing_has_no_layers():
    assert rehearsed(lambda model, rows, memory: Loss(model.linear(rows["x"])[:, 0])) == ()


def test_numbers_of_jax_are_rows_too():
    rows = {"x": jnp.ones((3, 2), jnp.bfloat16), "seen": np.array([True, False, True])}
    assert len(rehearsed(rows=rows)) == 3


def test_a_memory_is_followed():
    def loss(model, rows, memory):
        return squares(model, rows, None)._replace(memory=memory + 1)

    assert len(rehearsed(loss, memory=jnp.zeros((3, 4)))) == 3


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (np.array(["a", "b", "c"]), r"\['name'\] is <U1"),
        (np.array([{}] * 3), r"\['name'\] is object"),
    ],
    ids=["text", "objects"],
)
def test_rows_that_no_device_computes_with_are_named(column, said):
    with pytest.raises(
        ConfigError, match=f"the rows' {said}, which no device computes with; leave"
    ):
        rehearsed(rows=ROWS | {"name": column})


def of_rows(**changes):
    """A loss of three rows with one of its parts replaced."""

    def loss(model, rows, memory):
        found = squares(model, rows, memory)
        return found._replace(**{name: make(found.losses) for name, make in changes.items()})

    return loss


WRONG = {
    "no Loss": (
        lambda model, rows, memory: model(rows["x"]).mean(),
        "returns a .*; return a deqjax",
    ),
    "a mean": (of_rows(losses=jnp.mean), r"losses of shape \(\) for 3 rows; .* not their mean"),
    "a number": (of_rows(losses=lambda x: 0.5), r"losses of shape \(\) for 3 rows"),
    "other rows": (of_rows(losses=lambda x: x[:2]), r"losses of shape \(2,\) for 3 rows"),
    "integers": (of_rows(losses=jnp.int32), "losses of int32; return floating point"),
    "weights": (
        of_rows(weights=lambda x: jnp.ones((3, 1))),
        r"weights of shape \(3, 1\) for losses of shape \(3,\); give each row, or each target, one",
    ),
    "one weight": (of_rows(weights=lambda x: jnp.ones(1)), r"weights of shape \(1,\) for losses"),
    "a sum": (
        of_rows(counts=lambda x: {"hits": x.sum()}),
        r"the count 'hits' of shape \(\) for 3 rows; axis 0 of a count is the rows",
    ),
    "a number of hits": (of_rows(counts=lambda x: {"hits": 2}), r"the count 'hits' of shape \(\)"),
    "other counts": (
        of_rows(counts=lambda x: {"hits": x[:2]}),
        r"'hits' of shape \(2,\) for 3 rows",
    ),
    "a memory": (of_rows(memory=lambda x: x), "return a memory if, and only if"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_loss_that_cannot_be_trained_on_is_told_in_a_sentence(case):
    loss, sentence = WRONG[case]
    with pytest.raises(ConfigError, match=rf"loss\(\) .*{sentence}") as caught:
        rehearsed(loss)
    assert "\n" not in str(caught.value)


def test_a_memory_that_is_not_handed_on_is_told():
    with pytest.raises(ConfigError, match="return a memory if, and only if"):
        rehearsed(memory=jnp.zeros((3, 4)))


def test_weights_of_each_row_serve_all_its_targets():
    def loss(model, rows, memory):
        losses = squares(model, rows, memory).losses
        return Loss(jnp.stack([losses, losses], axis=1), weights=rows["x"][:, 0] > 0)

    assert len(rehearsed(loss)) == 3


@pytest.mark.parametrize("inside", ["alone", "jit"])
def test_weights_that_depend_on_the_model_are_refused(inside):
    def positive(losses, x):
        return (losses > 0) & (x[:, 0] > 0)

    def loss(model, rows, memory):
        found = squares(model, rows, memory)
        made = jax.jit(positive) if inside == "jit" else positive
        return found._replace(weights=made(found.losses, rows["x"]))

    with pytest.raises(ConfigError, match=r"weights that loss\(\) returns depend on the model"):
        rehearsed(loss)


def test_weights_that_are_drawn_at_random_are_refused():
    def loss(model, rows, memory):
        found = squares(model, rows, memory)
        drawn = jax.random.bernoulli(model.dropout.rngs(), 0.5, found.losses.shape)
        return found._replace(weights=drawn)

    with pytest.raises(ConfigError, match="or on what it draws at random"):
        rehearsed(loss)


@pytest.mark.parametrize("name", ["loss", "scored", "forward_steps", "spectral_radius_max"])
def test_a_count_does_not_hide_what_the_engine_records(name):
    def loss(model, rows, memory):
        found = squares(model, rows, memory)
        return found._replace(counts={name: found.losses > 0})

    with pytest.raises(ConfigError, match=f"a count '{name}', which is the name of something"):
        rehearsed(loss)


def test_what_a_model_changes_and_nobody_keeps_is_named():
    def loss(model, rows, memory):
        model.calls.set_value(model.calls.get_value() + 1)
        return squares(model, rows, memory)

    with pytest.raises(
        ConfigError, match=r"the model changes calls when it is called, .* an nnx\.BatchStat"
    ):
        rehearsed(loss)


def test_a_name_that_rows_do_not_have_is_told_with_those_that_they_have():
    with pytest.raises(KeyError, match=r"labels \(a row has x\)"):
        rehearsed(lambda model, rows, memory: Loss(rows["labels"]))
