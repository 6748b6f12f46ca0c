"""What a step needs, of tiny runs on this CPU, and on chips that need not be there."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from deqjax.training import ReplicaError, TopologyError, estimate_run, load_experiment
from deqjax.training._rehearsal import Layer
from deqjax.training.estimate import CHIPS, _estimate, _memory, _target
from deqjax.training.estimate._limits import Limits, limits_of
from deqjax.training.estimate._roofline import roofline
from deqjax.training.estimate._step import PlannedStep
from deqjax.training.estimate._traffic import Collective
from tiny import tiny_config, with_parts

OWN = Path(__file__).parents[3] / "experiments" / "own"
WIDTH, HIDDEN, LENGTH = 32, 128, 8


@pytest.fixture(scope="module")
def config():
    """The width makes matrices cost more than all the rest; Picard compiles fastest."""
    config = with_parts(
        tiny_config("nowhere"),
        task__network__shape__vocabulary=256,
        task__network__shape__width=WIDTH,
        task__network__shape__hidden=HIDDEN,
        task__network__solver__method="picard",
        task__network__solver__backward_method="picard",
    )
    assert config.task.network.shape.length == LENGTH
    return config


@pytest.fixture(scope="module")
def found(config):
    return estimate_run(config)


def test_parameters_and_memory(config, found):
    assert found.devices == jax.device_count()
    memory = found.memory
    # parameters and two moments, each float32
    assert memory.arguments > 3 * 4 * found.parameters
    assert memory.total > memory.arguments + memory.temporary > memory.arguments
    assert memory.fits is None
    assert found.seconds is None


def test_an_evaluation_costs_what_its_matrices_cost(config, found):
    """Two FLOP a weight and position, of each device's one row, in each of seven passes."""
    assert found.limits == Limits(forward=7, backward=5, penalized=0.5)
    evaluation = 2 * (4 * WIDTH**2 + 2 * WIDTH * HIDDEN) * LENGTH
    logits = 2 * WIDTH * 256 * LENGTH
    assert 7 * evaluation + logits < found.flop["forward"] < 1.5 * (7 * evaluation + logits)
    assert 5 * evaluation < found.flop["backward"]
    # half of the steps have one: the layer's derivative along a vector, and the gradient of that
    assert evaluation < found.flop["penalty"] < 3.5 * evaluation
    assert found.flop["optimizer"] >= 5 * found.parameters


def test_devices_exchange_gradients_once(found):
    assert not any(each.looping for each in found.collectives)
    total = sum(each.size for each in found.collectives)
    assert 4 * found.parameters <= total < 4.5 * found.parameters
    assert {each.kind for each in found.collectives} == {"all-reduce"}


def test_every_part_moves_something(found):
    assert all(size > 0 for size in found.moved.values())
    # parameters, moments and gradient are read, all but the last written
    assert found.moved["optimizer"] > 7 * 4 * found.parameters


def test_a_task_of_ones_own_is_planned_with_its_data_and_a_state_in_parts():
    """Of a batch of four rows next to nothing; of parameters, moments and gradients a quarter."""
    config = load_experiment(OWN / "spirals.py")
    found = estimate_run(dataclasses.replace(config, batch_size=4, parallel="sharded"))
    state = 3 * 4 * found.parameters
    assert state / 4 < found.memory.arguments < state / 4 * 1.05 + 200
    assert found.flop["forward"] > 0
    gathered = [each for each in found.collectives if each.kind == "all-gather"]
    assert sum(each.size for each in gathered) > 0.9 * 4 * found.parameters
    assert not any(each.looping for each in found.collectives)


def test_a_batch_that_cannot_be_shared_is_refused(config):
    with pytest.raises(ReplicaError, match="--batch_size 6 cannot be shared evenly by 4 devices"):
        estimate_run(with_parts(config, batch_size=6))


def test_limits_are_the_longest_solves():
    layers = [Layer("a", 6, 1e-3, 4), Layer("b", 9, 1e-3, None), Layer("c", None, None, None)]
    assert limits_of(layers, 1.0) == Limits(forward=10, backward=9, penalized=1.0)
    assert limits_of([], 0.0) == Limits(forward=1, backward=1, penalized=0.0)


@pytest.mark.parametrize(
    "said",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 31.25G of 15.75G hbm.",
        "RESOURCE_EXHAUSTED: E1000: the total memory required for HLO temporaries (31.25G) exceeds "
        "available HBM (15.75G). HLO module: jit_step.",
    ],
)
def test_a_refused_program_still_tells_what_it_needs(said):
    memory = _memory.refused(said)
    assert memory.total == 31.25 * 2**30
    assert memory.room == 15.75 * 2**30
    assert memory.fits is False


def test_other_refusals_are_sentences():
    said = "INTERNAL: Ran out of memory in memory space vmem.\nSee elsewhere"
    assert _memory.refused(said) is None

    class Refused:
        def lower(self):
            raise jax.errors.JaxRuntimeError(said)

    step = PlannedStep(None, Refused(), 1)
    with pytest.raises(TopologyError, match=r"for v5e:2x2 refuses the step, .*space vmem\. See"):
        _estimate._compiled(step, _target.Target("v5e:2x2", (), CHIPS["v5e"]))
    with pytest.raises(jax.errors.JaxRuntimeError):
        _estimate._compiled(step, _target.Target("cpu", (), None))


def test_each_part_takes_its_longer_half():
    chip = CHIPS["v5e"]
    exchange = Collective("all-reduce", "rest", False, None, 1, 8e9)
    seconds = roofline(
        {"forward": chip.flops, "backward": 1.0},
        {"forward": 1.0, "backward": 2 * chip.bandwidth},
        [exchange, exchange._replace(kind="all-gather")],
        chip,
        4,
    )
    assert seconds.parts["forward"] == pytest.approx(1)
    assert seconds.parts["backward"] == pytest.approx(2)
    # three quarters of 8 GB, three times
    assert seconds.collectives == pytest.approx(18e9 / chip.interconnect)
    assert seconds.total == pytest.approx(3 + seconds.collectives)
    # in pairs each device sends half, twice
    pairs = roofline({}, {}, [exchange._replace(devices=2)], chip, 4)
    assert pairs.collectives == pytest.approx(8e9 / chip.interconnect)


@pytest.mark.parametrize(
    ("topology", "sentence"),
    [
        ("v5e", "'v5e' is none; write a chip and a grid of them, as v5e:2x4"),
        ("v5e:0x4", "'v5e:0x4' is none"),
        ("v9:2x2", "there is no chip 'v9'; those known are v4, v5e, v5p, v6e"),
    ],
)
def test_a_topology_that_is_none_is_a_sentence(topology, sentence):
    with pytest.raises(TopologyError, match=sentence):
        _target.target_of(topology)


def test_without_libtpu_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=r"pip install 'deqjax\[tpu\]'"):
        _target.target_of("v5e:2x4")


@pytest.mark.libtpu
@pytest.mark.parametrize(
    ("topology", "devices"), [("v4:2x2x1", 4), ("v5e:4x4", 16), ("v5p:2x2x2", 8), ("v6e:2x2", 4)]
)
def test_every_chip_can_be_planned_for(topology, devices):
    assert len(_target.target_of(topology).devices) == devices


@pytest.mark.libtpu
def test_a_grid_that_is_none_is_a_sentence():
    with pytest.raises(TopologyError, match="v5e:2x3 is refused by libtpu"):
        _target.target_of("v5e:2x3")


@pytest.mark.libtpu
def test_a_tpu_is_planned_for_without_one(config, found):
    planned = estimate_run(config, "v5e:2x2")
    assert planned.memory.fits
    assert planned.flop == found.flop
    assert planned.seconds.total > 0
    np.testing.assert_allclose(
        sum(each.size for each in planned.collectives),
        sum(each.size for each in found.collectives),
        rtol=0.1,
    )
