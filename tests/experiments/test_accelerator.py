"""The accelerator's eight minutes: what parts leave behind, and the parts' own logic, tiny."""

import contextlib
import dataclasses
import importlib
import json
import math
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from deqjax import training

ROOT = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def load():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module


@pytest.fixture
def options(load, tmp_path):
    return load("accelerated.part").Options(tmp_path, time.monotonic() + 60, tiny=True)


@pytest.fixture
def told():
    return {}


TELL = "import json, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(json.dumps({}));"


def part(found, then=""):
    return TELL.format(found) + then


PARTS = {  # what each of these processes does, and how it comes out within its time
    "ends": (part({"a": 1, "machine": {"device": "x", "versions": {}}}), "finished", None),
    "raises": (part({"a": 1, "failed": "KeyError: b"}, "sys.exit(1)"), "failed", "KeyError: b"),
    "crashes": (part({"a": 1}, "print('no memory'); sys.exit(3)"), "failed", "status 3: no memory"),
    "lacks": (part({"skipped": "No module named 'x'"}, "sys.exit(1)"), "skipped", "No module"),
    "hangs": (part({"a": 1}, "time.sleep(100)"), "stopped", "its time was over"),
}


def test_every_end_of_a_part_is_recorded_with_the_figures_that_it_had(load, tmp_path):
    running = load("accelerated.running")
    entries, saved = {}, []
    with contextlib.ExitStack() as stack:
        parts = {}
        for name, (code, _, _) in PARTS.items():
            file = tmp_path / f"{name}.json"
            command = [sys.executable, "-c", code, str(file)]
            seconds = 3.0 if name == "hangs" else 60.0
            until = time.monotonic() + seconds
            parts[name] = stack.enter_context(running.started(command, file, until, {}))

        def note(name, part):
            entries[name] = part.entry

        running.until_all_end(parts, note, lambda: saved.append(len(entries)))
    for name, (_, outcome, reason) in PARTS.items():
        assert entries[name]["outcome"] == outcome
        assert (reason or "") in entries[name].get("reason", "")
        assert entries[name]["figures"] == ({} if name == "lacks" else {"a": 1})
    assert len(saved) > 1


@pytest.fixture
def accelerator(load, monkeypatch):
    """The script, whose parts are processes that only tell how much time they were given."""
    module = load("accelerator")
    real = module.started

    def stand_in(command, file, until, environment):
        values = dict(zip(command[2::2], command[3::2], strict=False))
        found = {
            "seconds": until - time.monotonic(),
            "environment": environment,
            "step": values.get("--mdeq-step"),
            "MDEQ-tiny": {"seconds of a step": 0.25},
        }
        found["machine"] = {"device": "none", "versions": {}, "command": "", "date": ""}
        return real([sys.executable, "-c", part(found), str(file)], file, until, environment)

    monkeypatch.setattr(module, "started", stand_in)
    return module


def test_parts_share_the_time_and_know_of_each_other(accelerator, tmp_path, capsys):
    prepared = tmp_path / "data" / "cifar10" / "3.0.2"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").touch()
    words = ["--out", str(tmp_path), "--data", str(tmp_path / "data")]
    assert accelerator.main(words) == 0
    record = json.loads((tmp_path / "accelerator.json").read_text())
    assert {"command", "date", "machine", "card"} < set(record)
    parts = record["parts"]
    assert list(parts) == list(accelerator.PARTS)
    given = {name: found["figures"]["seconds"] for name, found in parts.items()}
    assert 230 < given["cifar10"] < 480
    # at most eight minutes, if all took what they were given
    assert given["accuracy"] == pytest.approx(given["kernels"], abs=2)
    assert given["accuracy"] < 480 * 0.15
    assert parts["cifar10"]["figures"]["step"] == "0.25"
    assert parts["language"]["figures"]["step"] is None
    flags = parts["resume, deterministic"]["figures"]["environment"]["XLA_FLAGS"]
    assert "--xla_gpu_deterministic_ops=true" in flags
    # one alone has all the memory
    share = "XLA_PYTHON_CLIENT_PREALLOCATE"
    assert parts["language"]["figures"]["environment"][share] == "true"
    assert parts["accuracy"]["figures"]["environment"][share] == "false"
    assert "cifar10" in capsys.readouterr().out


def test_what_cannot_be_measured_is_skipped_with_a_reason(accelerator, tmp_path):
    words = ["--out", str(tmp_path), "--data", str(tmp_path), "--minutes", "0.2"]
    assert accelerator.main([*words, "--parts", "cifar10", "images"]) == 1
    parts = json.loads((tmp_path / "accelerator.json").read_text())["parts"]
    assert "is not prepared" in parts["cifar10"]["reason"]
    assert "s were left" in parts["images"]["reason"]
    assert {found["outcome"] for found in parts.values()} == {"skipped"}


@pytest.mark.usefixtures("compile_fast")
def test_values_and_gradients_are_right_here_and_wrong_ones_are_noticed(load):
    accuracy, (problem,) = load("accelerated.accuracy"), load("accelerated.problems").problems(True)
    for setting in (accuracy.HIGHEST, accuracy.DOUBLE):
        found = accuracy.against_truth(problem, setting, "anderson, implicit")
        assert found["right"] is True
        assert max(found["value"], found["gradient of the matrix"]) < setting.limit / 10
    loose = accuracy.HIGHEST._replace(tol=0.5)
    assert accuracy.against_truth(problem, loose, "anderson, implicit")["right"] is False
    estimates = accuracy.penalty_and_radius(problem)
    assert max(estimates[name] for name in ("penalty of a z", "its gradient")) < 1e-5
    assert estimates["spectral radius"] < 1e-3
    assert estimates["penalty of the problem, an estimate"] < 0.3
    host = jax.devices("cpu")[0]
    assert max(accuracy.against_host(problem, "neumann", host).values()) < 1e-5


@pytest.mark.parametrize(
    ("module", "sizes"),
    [
        ("language", {"DEQ-Transformer, bfloat16": 98e6, "Transformer-XL, float32": 98e6}),
        ("images", {"MDEQ-tiny": 0.16e6, "ResNet": 0.32e6}),
    ],
)
def test_contestants_have_the_sizes_of_their_papers(load, module, sizes):
    contests = load(f"accelerated.{module}").contests(tiny=False)
    throughput = load("accelerated.throughput")
    for name, size in sizes.items():
        state = throughput.abstract(contests[name].config)[1]
        own = sum(leaf.size for leaf in jax.tree.leaves(state.weights.parameters))
        assert own == pytest.approx(size, rel=0.03)


@dataclasses.dataclass(frozen=True)
class Line(training.Task):
    fails: bool = False

    def model(self, rngs):
        return nnx.Linear(2, 1, rngs=rngs)

    def data(self, split):
        raise AssertionError("no data are needed")

    def loss(self, model, batch):
        if self.fails:
            raise RuntimeError("out of memory")
        return training.Loss(model(batch)[:, 0] ** 2)


def test_steps_are_timed_on_as_many_rows_as_fit_and_a_failure_is_told(load, options, told):
    throughput = load("accelerated.throughput")

    def contest(**fields):
        config = training.RunConfig("line", task=Line(**fields), batch_size=8)
        return throughput.Contest(config, lambda rows: np.ones((rows, 2), np.float32), "rows", 1)

    contests = {"good": contest(), "bad": contest(fails=True)}
    throughput.measure(contests, options, told.__setitem__)
    assert told["good"]["rows"] == 8
    assert told["good"]["parameters"] == 3
    assert told["good"]["rows a second"] > 0
    assert "out of memory" in told["bad"]["failed"]
    json.dumps(told, allow_nan=False)
    assert throughput.compiled(contest(), room=0.0).rows == 1
    assert throughput.memory_limit() == math.inf  # of a CPU nothing is told


@pytest.mark.usefixtures("compile_fast")
def test_a_run_that_goes_on_is_equal_and_one_that_forgets_is_not(load, tmp_path, monkeypatch):
    resume = load("accelerated.resume")
    config = resume.configuration(load("tiny_runs").own_run("spirals", 4))
    found = resume.compared(config, tmp_path / "equal")
    assert found["the same run again is equal"]
    assert found["a resumed run is equal"]

    def forgetful(config, folder, *, resume=False):
        return "another" if resume else "the same"

    monkeypatch.setattr(resume, "_trained", forgetful)
    monkeypatch.setattr(resume, "_difference", lambda first, second: 1.0)
    found = resume.compared(config, tmp_path / "forgetful")
    assert found["the same run again is equal"]
    assert not found["a resumed run is equal"]
    assert found["largest difference, resumed"] == 1.0


def test_minutes_of_training_are_planned_from_the_time_of_a_step(load, tmp_path):
    cifar10, part = load("accelerated.cifar10"), load("accelerated.part")
    options = part.Options(tmp_path, time.monotonic() + 240)
    config = cifar10.configuration(options)
    planned = cifar10.shortened(config, 0.05, options)
    assert 2_500 < planned.steps < 240 / 0.05
    share = config.pretrain_steps / config.steps
    assert planned.pretrain_steps / planned.steps == pytest.approx(share, rel=0.01)
    assert cifar10.shortened(config, 1e9, options).steps == 10


def test_what_json_has_no_number_for_is_written_in_words(load, tmp_path):
    part = load("accelerated.part")
    part.Findings(tmp_path / "found.json").tell("errors", {"a": [math.nan, 1.0, (-math.inf,)]})
    assert json.loads((tmp_path / "found.json").read_text()) == {
        "errors": {"a": ["nan", 1.0, ["-inf"]]}
    }
