"""What the script that kills runs decides by; the runs themselves take minutes."""

import importlib
import signal
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def kill_resume(load):
    return load("kill_resume")


def end(kill_resume, **changes):
    fields = {
        "step": 6,
        "state_hash": "a",
        "recorded_hash": "a",
        "leaves": {"key": "k", "weights.parameters.w": "w", "optimizer.mu": "m"},
        "position": {"next_index": 6},
        "records": ['{"step": 4, "loss": NaN}', '{"step": 6}'],
    }
    return kill_resume.End(**{**fields, **changes})


@pytest.mark.parametrize("kills", [1, 4, 10, 30])
def test_plan_leaves_the_run_time_for_every_kill(kill_resume, kills):
    plans = kill_resume.plan(kills, steps=90, seed=3)
    assert len(plans) == kills
    assert [kill.step for kill in plans] == sorted({kill.step for kill in plans})
    assert plans[0].step >= 1
    assert plans[-1].step < 0.85 * 90
    assert sum(kill.when == "starting" for kill in plans) == kills // 5


def test_plan_kills_during_saves_and_depends_on_its_seed(kill_resume):
    plans = kill_resume.plan(10, steps=90, seed=0)
    assert sum(kill.when == "saving" for kill in plans) == 4
    assert plans == kill_resume.plan(10, steps=90, seed=0)
    assert plans != kill_resume.plan(10, steps=90, seed=1)


@pytest.mark.parametrize(
    ("when", "there", "expected"),
    [
        ("saving", ["6.orbax-checkpoint-tmp"], True),
        ("saving", ["3.orbax-checkpoint-tmp"], False),  # an earlier step
        ("saving", ["9.orbax-checkpoint-tmp"], False),  # left by an earlier kill
        ("saving", ["6", "12"], False),
        ("training", ["12"], True),
        ("training", ["3"], False),
        ("training", ["6.orbax-checkpoint-tmp"], False),
    ],
)
def test_a_kill_waits_for_a_checkpoint_of_this_start(kill_resume, tmp_path, when, there, expected):
    for name in there:
        (tmp_path / name).mkdir()
    kill = kill_resume.Kill(when, 5, 0.0)
    assert kill_resume.is_time(kill, tmp_path, {"9.orbax-checkpoint-tmp"}) is expected


def test_nothing_is_saved_before_the_folder_exists(kill_resume, tmp_path):
    kill = kill_resume.Kill("saving", 0, 0.0)
    assert not kill_resume.is_time(kill, tmp_path / "none", set())


def test_equal_ends_are_equal_with_nan(kill_resume):
    found = kill_resume.difference(end(kill_resume), end(kill_resume))
    assert found["equal"]
    assert not kill_resume.is_noticed(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 5},
        {"state_hash": "b", "recorded_hash": "b"},
        {"recorded_hash": "b"},
        {"position": {"next_index": 5}},
        {"records": ['{"step": 4, "loss": NaN}']},
        {"records": ['{"step": 4, "loss": 1.0}', '{"step": 6}']},
    ],
    ids=["step", "state", "record", "position", "missing", "value"],
)
def test_any_difference_counts(kill_resume, changes):
    assert not kill_resume.difference(end(kill_resume), end(kill_resume, **changes))["equal"]


def test_a_mutant_is_noticed_by_more_than_its_own_key(kill_resume):
    changed = {"state_hash": "b", "recorded_hash": "b", "records": ['{"step": 4}']}
    leaves = end(kill_resume).leaves
    another = end(kill_resume, **changed, leaves=leaves | {"key": "x"})
    found = kill_resume.difference(end(kill_resume), another)
    assert not found["equal"]
    assert not kill_resume.is_noticed(found)
    another = another._replace(leaves=leaves | {"weights.parameters.w": "x"})
    assert kill_resume.is_noticed(kill_resume.difference(end(kill_resume), another))


@pytest.mark.parametrize("forgotten", ["data", "optimizer", "keys"])
def test_a_mutant_forgets_one_thing(load, forgotten):
    import jax

    from deqjax.training.step._state import Skips, TrainState, Weights

    def state(number):
        key = jax.random.key(number)
        return TrainState(number, Weights(number), number, key, None, Skips(0, 0))

    def restore(self, tree, iterator, step):
        del self, tree
        return step, state(7), {"iterator": iterator}

    wrapped = load("spoiled_run").forgetful(restore, forgotten)
    step, found, meta = wrapped(None, state(1), "iterator", 5)
    kept = found.key == jax.random.key(7), found.optimizer == 7, meta["iterator"] == "iterator"
    assert [bool(each) for each in kept] == [forgotten != n for n in ("keys", "optimizer", "data")]
    assert (step, found.weights) == (5, Weights(7))


def test_the_fifth_batch_raises(load):
    batch = load("spoiled_run").failing(lambda self: self, "raises")
    assert [batch(n) for n in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="on fire"):
        batch(4)


def test_a_child_is_killed_with_all_that_it_started(load, tmp_path):
    children = load("children")
    code = (
        "import subprocess, sys, time; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    with children.Child([sys.executable, "-c", code], tmp_path / "log") as child:
        assert children.wait_until(lambda: child.output().endswith("\n"), 30)
        grandchild = Path(f"/proc/{child.output().strip()}/stat")
        assert child.status is None
    assert child.status == -signal.SIGKILL

    def is_gone():
        return not grandchild.exists() or grandchild.read_text().rsplit(")")[1].split()[0] == "Z"

    assert children.wait_until(is_gone, 10)


def test_waiting_ends_with_the_time_or_the_child(load, tmp_path):
    children = load("children")
    assert not children.wait_until(lambda: False, 0.05)
    with children.Child([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log") as child:
        assert not children.wait_until(lambda: False, 60, or_end_of=[child])
        assert child.status == 3
        assert child.seconds < 60


def test_tiny_runs_are_valid_and_cross_checkpoints(load, tmp_path):
    from deqjax import cli
    from deqjax.training._config import check

    tiny_runs = load("tiny_runs")
    for file, *words in (tiny_runs.text_run(9, tmp_path, "text"), tiny_runs.image_run(9)):
        found = cli.parse(["train", str(file), *words]).config
        check(found)
        assert found.steps == 9
        assert found.checkpoint_every % found.log_every
        assert found.average_decay > 0


def test_texts_of_all_seeds_are_equally_long(load, tmp_path):
    texts = []
    for seed in (0, 1):
        load("tiny_runs").write_text(tmp_path / "text", seed)
        texts.append((tmp_path / "text").read_bytes())
    assert texts[0] != texts[1]
    assert len(texts[0]) == len(texts[1]) == 20_000
