"""A divided state trains as a whole one, and nothing is exchanged while a solve goes on."""

import functools

import jax
import numpy as np
import optax
import pytest
import toy
from jax.sharding import AxisType, PartitionSpec
from test_parallel import batch as text_batch
from test_parallel import problem_and_state as text_problem

import tiny_vision
from deqjax.tasks.vision._batches import LabelledImages
from deqjax.training import Batch, PenaltyConfig, ReplicaError
from deqjax.training._run import assemble
from deqjax.training.devices import AXIS, DataParallel, ShardedParallel, ShardedSteps, mesh_of
from deqjax.training.devices._copies import first_replica
from deqjax.training.estimate._limits import ONCE
from deqjax.training.estimate._program import read_program
from deqjax.training.estimate._traffic import traffic
from deqjax.training.step import OWN_LIMITS
from tiny import with_parts


def image_batch(seed):
    rng = np.random.default_rng(seed)
    rows = LabelledImages(
        rng.normal(size=(8, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 8).astype(np.int32)
    )
    return Batch(rows, np.ones(8, bool))


@functools.cache
def image_problem():
    """With batch normalizations, whose statistics are of all devices."""
    config = with_parts(
        tiny_vision.tiny_vision(penalty=PenaltyConfig(weight=0.0)),
        task__network__solver__method="picard",
        task__network__solver__adjoint="jacobian_free",
        task__network__residual__channels=(8,),
    )
    return assemble(config, config.task.opened(None), axis_name=AXIS)


KINDS = {
    "language": (functools.partial(text_problem, penalty=0.0, memory_length=6), text_batch, 4),
    "vision": (image_problem, image_batch, 8),
}


@functools.cache
def sharded(kind):
    problem_of, _, rows = KINDS[kind]
    problem, state = problem_of()
    return ShardedParallel(problem, rows, state, devices=jax.local_devices()[:4])


@functools.cache
def trained(kind, engine):
    """Losses and norms of three steps, and the state after them."""
    problem_of, batch, rows = KINDS[kind]
    problem, state = problem_of()
    if engine == "sharded":
        steps = sharded(kind)
    else:
        steps = DataParallel(problem, rows, jax.local_devices()[:1])
    state, seen = steps.place(state), []
    for number in range(3):
        state, metrics, _ = steps.train(state, batch(number))
        metrics = first_replica(metrics)
        seen.append([metrics["loss"], metrics["gradient_norm"]])
    return np.array(seen), state, steps


@pytest.mark.parametrize("kind", KINDS)
def test_four_devices_with_a_quarter_of_the_state_train_as_one(kind):
    (one, _, _), (four, _, _) = trained(kind, "pmap"), trained(kind, "sharded")
    np.testing.assert_allclose(four, one, rtol=1e-5)
    assert len(np.unique(one)) == one.size


@pytest.mark.parametrize("kind", KINDS)
def test_each_device_holds_a_quarter_of_parameters_and_optimizer(kind):
    _, state, steps = trained(kind, "sharded")
    leaves = jax.tree.leaves((state.weights.parameters, state.optimizer))
    whole = sum(leaf.nbytes for leaf in leaves)
    for device in range(4):
        own = sum(leaf.addressable_shards[device].data.nbytes for leaf in leaves)
        assert own <= 1.05 * whole / 4
    assert steps.differing(state) == 0


def test_a_state_comes_back_whole_with_its_rows_in_order():
    (_, one, single), (_, four, steps) = (trained("language", x) for x in ("pmap", "sharded"))
    one, four = single.on_host(one), steps.on_host(four)
    assert jax.tree.structure(one) == jax.tree.structure(four)
    np.testing.assert_allclose(four.memory.states, one.memory.states, rtol=0, atol=1e-5)
    again = steps.on_host(steps.place(four))
    assert toy.bits(again._replace(key=0)) == toy.bits(four._replace(key=0))
    assert (jax.random.key_data(again.key) == jax.random.key_data(four.key)).all()


def test_no_collective_is_inside_a_solve():
    _, state = text_problem(penalty=0.0, memory_length=6)
    steps = sharded("language").steps
    text = steps.lowered(jax.eval_shape(lambda: state), text_batch()).compile().as_text()
    found = traffic(read_program(text), ONCE).collectives()
    assert [each for each in found if each.looping] == []
    names = {each.kind for each in found}
    assert {"all-gather", "reduce-scatter", "all-reduce"} <= names
    assert " while(" in text


RULES = {"deq.cell.kernel": PartitionSpec(None, "model"), "readout.*": None}


@functools.cache
def shared_rows():
    """A problem, its state, and its steps on copies and on groups of two devices."""
    problem, state = toy.problem_and_state(
        dropout=0.5, optimizer=optax.contrib.muon(0.05), average_decay=0.9
    )
    four = jax.local_devices()[:4]
    groups = ShardedParallel(problem, 4, state, model_devices=2, rules=RULES, devices=four)
    return state, (DataParallel(problem, 4, four[:2]), groups)


def test_devices_that_share_the_work_on_a_row_draw_what_one_would():
    state, ways = shared_rows()
    found = []
    for steps in ways:
        placed = steps.place(state)
        for number in range(2):
            placed, metrics, _ = steps.train(placed, toy.batch(number))
        assert steps.differing(placed) == 0
        whole = steps.on_host(placed)
        found.append((whole.weights, whole.average, whole.memory, first_replica(metrics)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_row_s_work_is_divided_in_the_loop():
    problem, state = toy.problem_and_state(dropout=0.5)
    steps = ShardedSteps(problem, mesh_of(jax.devices()[:4], 2), state, RULES)
    kernel = steps.specs.weights.parameters["deq"]["cell"]["kernel"]
    assert jax.tree.leaves(kernel) == [PartitionSpec(AXIS, "model")]


def test_evaluation_is_that_of_copies():
    state, ways = shared_rows()
    found = []
    for steps in ways:
        memory, weights = steps.share(state.memory), steps.place_weights(state.weights)
        metrics, counts, memory = steps.evaluate(weights, toy.batch(), memory, OWN_LIMITS)
        radii = steps.radius(weights, toy.batch(), memory, OWN_LIMITS, jax.random.key(0))
        found.append((first_replica(metrics), first_replica(counts), np.sort(radii)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=lambda kind: kind.name)
def test_meshes_of_both_kinds(kind):
    problem, state = toy.problem_and_state()
    devices, kinds = jax.devices()[:2], 2 * (kind,)
    mesh = jax.make_mesh((2, 1), ("data", "model"), axis_types=kinds, devices=devices)
    with jax.set_mesh(mesh):
        steps = ShardedSteps(problem, mesh, state)
        lowered = steps.lowered(jax.eval_shape(lambda: state), toy.batch())
    assert "all_gather" in lowered.as_text()


def test_a_state_given_away_cannot_be_used_again():
    state, (_, steps) = shared_rows()
    placed = steps.place(state)
    steps.train(placed, toy.batch())
    with pytest.raises(ReplicaError, match="given to an earlier step"):
        steps.train(placed, toy.batch())
    with pytest.raises(ReplicaError, match=r"on 1 device\(s\) of 4; place the state first"):
        steps.train(jax.device_put(state), toy.batch())


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (6, {}, r"--batch_size 6 .* 4 group\(s\) of 1 device\(s\) .* a multiple of 4"),
        (4, {"model_devices": 3}, r"--model_devices 3 does not divide the 4 device\(s\)"),
        (4, {"rules": {"deq.*.bias": None}}, r"'deq.\*.bias' .* fits no parameter .* readout.bias"),
        (4, {"rules": {"*": PartitionSpec("rows")}}, "'rows'; there are 'data' and 'model'"),
        (4, {"rules": {"*.bias": PartitionSpec(None, "model")}}, "more entries than .*bias of"),
        (4, {"rules": {"*.kernel": PartitionSpec("data", "data")}}, "over the same devices"),
    ],
    ids=["rows", "model devices", "no parameter", "axis", "entries", "twice"],
)
def test_what_does_not_fit_is_refused(rows, options, message):
    problem, state = toy.problem_and_state()
    with pytest.raises(ReplicaError, match=message):
        ShardedParallel(problem, rows, state, devices=jax.local_devices()[:4], **options)


def test_a_mesh_of_other_axes_is_refused():
    problem, state = toy.problem_and_state()
    with pytest.raises(ReplicaError, match="has the axes 'data' and 'model', not 'x', 'y'"):
        ShardedSteps(problem, jax.make_mesh((2, 2), ("x", "y")), state)
