"""The same batch trains the same model on any devices of any processes, and goes on with others."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from deqjax import training
from deqjax.training import PenaltyConfig, read_metrics
from tiny import tiny_config, with_parts


def config(tmp_path, steps):
    """Streams with memory; no dropout and no penalty, whose draws belong to a device's number."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question: " * 60)
    base = tiny_config(
        tmp_path / "datasets",
        steps=steps,
        log_every=1,
        checkpoint_every=1,
        penalty=PenaltyConfig(0.0),
        # not Adam, which makes the rounding of a small gradient as large as the step
        optimizer=training.OptimizerConfig(
            kind="sgd", learning_rate=0.1, warmup_steps=0, final_fraction=1.0
        ),
    )
    return with_parts(
        base,
        order="given",
        task__network__shape__memory_length=6,
        task__network__shape__dropout=0.0,
        # what compiles fastest
        task__network__solver__adjoint="jacobian_free",
        task__network__solver__method="picard",
        task__text__corpus="text_characters",
        task__text__file=str(tmp_path / "text.txt"),
        evaluation__every=10**9,
        evaluation__radius_batches=0,
    )


def train(tmp_path, name, steps, devices, parallel="pmap"):
    folder = tmp_path / name
    outcome = training.train(
        with_parts(config(tmp_path, steps), parallel=parallel),
        folder,
        resume=folder.exists(),
        devices=jax.local_devices()[:devices],
        say=lambda line: None,
    )
    records = read_metrics(outcome.workdir.metrics)
    return [r["loss"] for r in records if r["split"] == "train"]


def test_a_run_on_changing_devices_with_copies_and_parts_of_the_state_is_as_on_one(tmp_path):
    expected = train(tmp_path, "one", 5, 1)
    stages = ((1, 4, "pmap"), (2, 1, "pmap"), (3, 2, "pmap"), (4, 4, "sharded"), (5, 2, "pmap"))
    for steps, devices, parallel in stages:
        found = train(tmp_path, "several", steps, devices, parallel)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    states = [training.load_run(tmp_path / name).state for name in ("one", "several")]
    memories = [state.memory for state in states]
    np.testing.assert_allclose(memories[1].states, memories[0].states, rtol=0, atol=1e-5)
    assert [int(state.step) for state in states] == [5, 5]


class Pair:
    """Two processes with two virtual devices each, as users start them."""

    def __init__(self, tmp_path, *options):
        experiment = tmp_path / "experiment.py"
        experiment.write_text(
            "import pathlib, test_topology\n"
            f"def config(): return test_topology.config(pathlib.Path({str(tmp_path)!r}), 10**6)\n"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        tests = Path(__file__).parents[1]
        path = os.pathsep.join([*map(str, (tests / "devices", tests, tests.parent)), *sys.path])
        command = [sys.executable, "-m", "deqjax", "train", str(experiment)]
        command += ["--workdir", str(tmp_path / "pair"), "--devices", "2", "--heartbeat", "6"]
        command += ["--coordinator", address, "--num-processes", "2", *options]
        self.metrics = tmp_path / "pair" / "metrics.jsonl"
        self.processes = [
            subprocess.Popen(
                [*command, "--process-id", str(index)],
                env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.communicate()

    def losses(self):
        return {r["step"]: r["loss"] for r in read_metrics(self.metrics) if r["split"] == "train"}

    def wait_for_step(self, step):
        until = time.monotonic() + 120
        while max(self.losses(), default=0) < step:
            assert time.monotonic() < until
            assert all(process.poll() is None for process in self.processes), self.ends(1)
            time.sleep(0.1)

    def ends(self, seconds):
        """Statuses and errors of both once they have ended, and how long that took."""
        started = time.monotonic()
        errors = [process.communicate(timeout=seconds)[1] for process in self.processes]
        statuses = [process.returncode for process in self.processes]
        return statuses, errors, time.monotonic() - started

    def listening(self):
        """Addresses at which the two accept connections, as /proc has them."""
        inodes = set()
        for process in self.processes:
            for entry in Path(f"/proc/{process.pid}/fd").iterdir():
                target = os.readlink(entry)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        found = []
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    found.append(fields[1].rsplit(":", 1)[0])
        return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_two_processes_train_as_one_stop_together_go_on_and_end_together(tmp_path):
    with Pair(tmp_path) as pair:
        pair.wait_for_step(3)
        if Path("/proc/net/tcp").exists():  # other systems than Linux do not tell
            addresses = pair.listening()
            assert addresses
            assert set(addresses) <= LOOPBACK
        os.kill(pair.processes[1].pid, signal.SIGTERM)
        statuses, errors, _ = pair.ends(60)
        assert statuses == [0, 0], errors
    stopped = max(pair.losses())
    with Pair(tmp_path, "--resume") as pair:
        pair.wait_for_step(stopped + 3)
        os.kill(pair.processes[1].pid, signal.SIGKILL)
        statuses, errors, seconds = pair.ends(60)
        assert statuses == [1, -signal.SIGKILL]
        assert "process 1 gave no sign of life for 6 s; process 0 ends too" in errors[0]
        assert seconds < 6 + 5
    steps = stopped + 3
    found = [pair.losses()[step] for step in range(1, steps + 1)]
    np.testing.assert_allclose(found, train(tmp_path, "alone", steps, 1), rtol=1e-6)
    np.testing.assert_allclose(found, train(tmp_path, "four", steps, 4), rtol=1e-6)


def test_two_processes_share_one_state_and_a_run_of_copies_goes_on_with_it(tmp_path):
    with Pair(tmp_path, "--parallel", "sharded") as pair:
        pair.wait_for_step(3)
        os.kill(pair.processes[1].pid, signal.SIGTERM)
        statuses, errors, _ = pair.ends(60)
        assert statuses == [0, 0], errors
    stopped = max(pair.losses())
    found = train(tmp_path, "pair", stopped + 1, 2)
    np.testing.assert_allclose(found, train(tmp_path, "alone", stopped + 1, 1), rtol=1e-6)


def test_a_batch_that_the_devices_cannot_share_is_refused(tmp_path):
    with pytest.raises(training.ReplicaError, match="cannot be shared evenly by 3 devices"):
        train(tmp_path, "three", 1, 3)
