"""Which axis of an array is divided over which devices."""

import optax
import pytest
import toy
from jax.sharding import PartitionSpec

from deqjax.training.devices._division import default_spec, specs_of_state


@pytest.mark.parametrize(
    ("shape", "data", "model", "expected"),
    [
        ((), 4, 1, ()),
        ((6,), 4, 1, (None,)),
        ((8, 24), 4, 1, (None, "data")),
        ((16, 16), 4, 1, ("data", None)),
        ((3, 3, 8, 6), 4, 1, (None, None, "data", None)),
        ((0, 4), 4, 1, (None, "data")),
        ((8, 24), 2, 2, ("data", "model")),
        ((8, 5), 2, 2, (("data", "model"), None)),
        ((8,), 2, 2, (("data", "model"),)),
        ((6,), 2, 2, ("data",)),
        ((3, 6), 2, 2, (None, "model")),
    ],
)
def test_the_largest_axis_that_can_be_divided_is(shape, data, model, expected):
    assert default_spec(shape, {"data": data, "model": model}) == PartitionSpec(*expected)


def specs(rules, **sizes):
    _, state = toy.problem_and_state(optimizer=optax.adam(0.1))
    return specs_of_state(state, rules, {"data": 2, "model": 1} | sizes)


def kernel(tree):
    return tree["deq"]["cell"]["kernel"].get_value()


def test_the_first_rule_that_fits_decides_and_is_completed():
    rules = {"deq.*": PartitionSpec(None, "model"), "*.kernel": None, "*": PartitionSpec("data")}
    found = specs(rules, model=2)
    parameters = found.weights.parameters
    assert kernel(parameters) == PartitionSpec("data", "model")
    assert parameters["inject"]["kernel"].get_value() == PartitionSpec()
    assert parameters["inject"]["bias"].get_value() == PartitionSpec("data")


def test_an_axis_that_cannot_be_divided_stays_whole():
    found = specs({"deq.*": PartitionSpec(None, "model")}, model=3)
    assert kernel(found.weights.parameters) == PartitionSpec("data", None)


def test_a_single_device_takes_no_axis_from_the_others():
    found = specs({"deq.*": PartitionSpec("model")}, model=1)
    assert kernel(found.weights.parameters) == PartitionSpec("data", None)


def test_moments_are_divided_as_their_parameters():
    found = specs({"deq.*": PartitionSpec(None, "data"), "readout.*": None})
    moments = found.optimizer[0]
    assert moments.count == PartitionSpec()
    for tree in (found.weights.parameters, moments.mu, moments.nu):
        assert kernel(tree) == PartitionSpec(None, "data")
        assert tree["readout"]["kernel"].get_value() == PartitionSpec()
