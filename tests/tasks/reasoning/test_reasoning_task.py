"""Training reasoners: what is carried, resumed and evaluated."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from deqjax import cli, training
from deqjax.data import DataError
from deqjax.models import ReasonerShape, SolverSettings
from deqjax.tasks.reasoning import Puzzles, ReasonerNetwork, ReasoningTask, Thinking
from deqjax.training import ConfigError, EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig
from tiny import with_parts

BITS = 8


def silent(line):
    pass


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return RunConfig(
        name="tiny_reasoner",
        task=ReasoningTask(
            network=ReasonerNetwork(
                shape=ReasonerShape(
                    width=8, heads=2, layers=1, multiple=8, inner_steps=1, noise=0.01
                )
            ),
            puzzles=Puzzles(
                "prefix_sums", size=BITS, count=16, directory=str(tmp_path_factory.mktemp("data"))
            ),
            thinking=Thinking(passes=2),
        ),
        steps=4,
        batch_size=4,
        average_decay=0.9,
        log_every=2,
        checkpoint_every=2,
        optimizer=OptimizerConfig(
            schedule="constant", learning_rate=1e-4, weight_decay=1.0, warmup_steps=0
        ),
        penalty=PenaltyConfig(weight=0.0),
        evaluation=EvaluationConfig(every=4, batches=1, final_batches=1, radius_batches=0),
    )


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "run"
    training.train(config, place, say=silent)
    return place


def leaves(folder):
    state = training.load_run(folder).state
    state = state._replace(key=jax.random.key_data(state.key))
    return jax.tree.leaves(state)


def test_a_run_that_goes_on_is_the_same_bit_for_bit(config, folder, tmp_path):
    half = dataclasses.replace(config, steps=2)
    training.train(half, tmp_path / "run", say=silent)
    training.train(config, tmp_path / "run", resume=True, say=silent)
    for ours, theirs in zip(leaves(tmp_path / "run"), leaves(folder), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    passes = training.load_run(folder).state.memory.passes
    assert passes.tolist() == [4, 4, 4, 4]  # a fresh model is never sure


def test_an_evaluation_is_always_the_same_and_thinks_for_all_its_passes(folder):
    first, second = (training.evaluate_run(folder) for _ in range(2))
    assert first == second
    assert first["forward_steps"] == 6  # of two passes of three cycles
    assert {"cells", "exact", "halted", "judged"} <= set(first)
    assert "same_answer" not in first


def test_evaluate_takes_depths_and_starts(folder, capsys):
    assert cli.main(["evaluate", str(folder), "--depths", "1", "5", "--starts", "2"]) == 0
    printed = capsys.readouterr().out
    assert "same answer" in " ".join(printed.split())
    found = training.sweep_depths(folder, (1, 5), task={"thinking.starts": 2})
    assert [each.depth for each in found] == [1, 5]
    assert found[0].residual > found[1].residual
    assert 0 <= found[1].others["exact_by_residual"] <= 1


def test_longer_strings_are_evaluated_by_a_model_of_shorter_ones(folder):
    longer = training.load_run(folder, task={"puzzles.evaluation_size": 11})
    batch = next(iter(longer.data.split("validation").evaluate(longer.order)))
    assert batch.rows["inputs"].shape[1] == 11
    asked = {"puzzles.evaluation_size": 11, "puzzles.evaluation_count": 3}
    scores = training.evaluate_run(folder, task=asked)
    assert 0 < scores["cells"] < 1
    assert scores["scored"] == 3
    with pytest.raises(ConfigError, match="evaluation_count 3 is of puzzles of another size"):
        training.load_run(folder, task={"puzzles.evaluation_count": 3})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network.shape.width": 16}, "--task.network.shape.width belongs to what was trained"),
        ({"thinking.start": 4}, "a ReasoningTask has no thinking.start; leave it out"),
        ({"thinking.starts": 0}, "--task.thinking.starts must be at least 1, got 0"),
    ],
)
def test_what_was_trained_cannot_be_changed_for_an_evaluation(folder, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        training.load_run(folder, task=changes)


def test_several_devices_share_the_rows(config, tmp_path):
    sharded = dataclasses.replace(config, parallel="sharded", steps=1)
    training.train(sharded, tmp_path / "run", say=silent, devices=jax.devices()[:2])
    run = training.load_run(tmp_path / "run")
    assert run.state.memory.passes.tolist() == [1, 1, 1, 1]
    starts = run.state.memory.states.high
    assert len({leaf.tobytes() for leaf in np.asarray(starts)}) == 4


def test_the_explicit_network_carries_nothing(config, tmp_path):
    explicit = with_parts(config, task__network__kind="transformer", steps=1)
    outcome = training.train(explicit, tmp_path / "run", say=silent)
    assert outcome.step == 1
    scores = training.evaluate_run(tmp_path / "run")
    assert {"cells", "exact"} <= set(scores)
    assert "forward_steps" not in scores
    with pytest.raises(ConfigError, match="starts 2 asks for several starts, but a network of"):
        training.evaluate_run(tmp_path / "run", task={"thinking.starts": 2})


def test_sizes_are_counted_in_the_puzzles(config):
    shape = config.task.opened(None).network.shape
    assert (shape.tokens, shape.length, shape.board) == (3, BITS, (1, BITS))
    made = config.task.opened(None).example(2)
    assert {name: each.shape for name, each in made.items()} == {
        "inputs": (2, BITS),
        "targets": (2, BITS),
    }
    assert config.task.example(2) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network__shape__tokens": 4}, "shape.tokens is 4, but that of the puzzles is 3"),
        ({"network__shape__length": 6}, "shape.length is 6, but that of the puzzles is 8"),
    ],
)
def test_sizes_of_other_puzzles_are_refused(config, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        with_parts(config.task, **changes).opened(None)


def test_puzzles_that_have_changed_are_told(config):
    opened = config.task.opened({"tokens": 3, "board": [1, 9]})
    with pytest.raises(DataError, match="the puzzles have changed since the run began"):
        opened.data("train")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network__shape__heads": 3}, "--task.network.shape: width 8 must be a multiple"),
        ({"network__solver__backward_max_steps": 4}, "4 must lie between 1 and the 3 cycles"),
        ({"network__solver__adjoint": "reversible"}, "needs the method 'reversible'"),
        ({"network__solver__method": "broyden"}, "returns 'last' goes with the methods"),
        (
            {"network__shape__positions": "rotary_2d", "puzzles__evaluation_size": 11},
            "evaluation_size asks for puzzles of another size",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(config, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        with_parts(config.task, **changes).check()


def test_a_converted_reasoner_is_adopted_with_its_sizes(config):
    opened = config.task.opened(None)
    model = opened.model(nnx.Rngs(0))
    quiet = with_parts(config.task, network__shape__noise=0.0, network__solver=SolverSettings())
    adopted = quiet.adopt(model).network
    assert adopted.shape == dataclasses.replace(opened.network.shape, noise=0.0)
    with pytest.raises(ConfigError, match="adopts a Reasoner, not a Linear"):
        quiet.adopt(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
