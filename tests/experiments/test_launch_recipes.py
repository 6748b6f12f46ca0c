"""The scripts that people copy to launch runs, with stand-ins for a cluster's own commands.

One run is started under Slurm, stopped as its time limit does, goes on with the command of a TPU
pod's hosts, and ends on the devices of one host: all on loopback, on CPU devices.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deqjax.training import read_metrics

LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"
SCRIPTS = sorted(LAUNCH.iterdir())

EXPERIMENT = """
import dataclasses
import jax.numpy as jnp, numpy as np
from flax import nnx
from deqjax import training


@dataclasses.dataclass(frozen=True)
class Line(training.Task):
    def model(self, rngs):
        return nnx.Linear(2, 1, rngs=rngs)

    def data(self, split):
        x = np.random.default_rng(len(split)).normal(size=(64, 2))
        return {"x": np.float32(x), "y": np.float32(x.sum(axis=1))}

    def loss(self, model, batch):
        return training.Loss((model(batch["x"])[:, 0] - batch["y"]) ** 2)


def config():
    evaluation = training.EvaluationConfig(
        every=10**6, batches=1, final_batches=1, radius_batches=0
    )
    return training.RunConfig(
        "line", task=Line(), steps=10**6, batch_size=8, log_every=1, checkpoint_every=10**6,
        evaluation=evaluation,
        optimizer=training.OptimizerConfig(schedule="constant", warmup_steps=0),
    )
"""

# What Slurm, and a pod's hosts, tell the processes: both by Slurm's variables, since JAX looks for
# a TPU's own only where there is one.
EACH_OF_TWO = """
status=0
pids=()
for number in 0 1; do
    SLURM_JOB_ID=7 SLURM_STEP_NODELIST=127.0.0.1 SLURM_STEP_NUM_NODES=1 SLURM_NTASKS=2 \
        SLURM_PROCID=$number SLURM_LOCALID=$number "${command[@]}" &
    pids+=($!)
done
echo "${pids[@]}" > "$PIDS"
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""
STAND_INS = {
    "deqjax": f'exec {sys.executable} -m deqjax "$@"',
    "srun": f'[ "$1" = --label ] && shift\ncommand=("$@")\n{EACH_OF_TWO}',
    "squeue": 'echo "${STATE:-RUNNING}"',
    "scontrol": 'echo "requeued: $*"',
    "gcloud": f'while [ "$1" != --command ]; do shift; done\ncommand=(bash -c "$2")\n{EACH_OF_TWO}',
}


@pytest.fixture
def shell(tmp_path):
    """Starts a script in a folder where the stand-ins come first."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, body in STAND_INS.items():
        (stand_ins / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (stand_ins / name).chmod(0o755)
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f"cd {tmp_path}\n")
    started = []

    def start(script, *words, **variables):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment = {
            **os.environ,
            "PATH": f"{stand_ins}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PIDS": str(tmp_path / "pids"),
            "JAX_PLATFORMS": "cpu",
            # loopback alone, on a port that is free
            "JAX_COORDINATOR_PORT": port,
            "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
            "SLURM_JOB_ID": "7",
            **variables,
        }
        process = subprocess.Popen(
            ["bash", str(LAUNCH / script), *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def steps(folder):
    records = read_metrics(folder / "run" / "metrics.jsonl")
    return [r["step"] for r in records if r["split"] == "train"]


def wait_for_step(folder, step, process):
    until = time.monotonic() + 120
    while max(steps(folder), default=0) < step:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def ended(process):
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    return printed


def test_a_run_goes_from_slurm_to_a_pod_to_one_host(shell, tmp_path):
    job = shell("slurm.sbatch", "experiment.py", "run", "--heartbeat", "20")
    wait_for_step(tmp_path, 2, job)
    one = (tmp_path / "pids").read_text().split()[1]
    os.kill(int(one), signal.SIGTERM)
    printed = ended(job)
    assert "2 cpu device(s) in 2 processes" in printed
    assert "requeued: requeue 7" in printed
    stopped = max(steps(tmp_path))

    later = ["experiment.py", str(tmp_path / "run"), "--steps"]
    pod = {"NAME": "pod", "ZONE": "zone", "CHECKOUT": str(tmp_path)}
    printed = ended(shell("tpu_pod.sh", *later, str(stopped + 3), **pod))
    assert f"resuming after step {stopped}" in printed
    assert "in 2 processes" in printed

    printed = ended(shell("gpus_of_one_host.sh", *later, str(stopped + 5), "--devices", "2"))
    assert f"resuming after step {stopped + 3}" in printed
    assert "2 cpu device(s), run in" in printed
    assert steps(tmp_path) == list(range(1, stopped + 6))


@pytest.mark.parametrize(
    ("told", "state", "requeued"),
    [("not finished", "RUNNING", True), ("not finished", "CANCELLED", False), ("", "", False)],
    ids=["stopped", "cancelled", "finished"],
)
def test_a_job_goes_back_to_the_queue_only_where_something_is_left(
    shell, tmp_path, told, state, requeued
):
    (tmp_path / "bin" / "deqjax").write_text(f"#!/usr/bin/env bash\necho '{told}' \"$@\"\n")
    printed = ended(shell("slurm.sbatch", "experiment.py", "run", STATE=state))
    assert ("requeued" in printed) == requeued
    assert "--resume" not in printed


def test_a_job_that_cannot_tell_what_is_left_fails(shell, tmp_path):
    told = 'if [ "$1" = runs ]; then echo broken; exit 3; fi'
    (tmp_path / "bin" / "deqjax").write_text(f"#!/usr/bin/env bash\n{told}\n")
    job = shell("slurm.sbatch", "experiment.py", "run")
    printed, _ = job.communicate(timeout=60)
    assert job.returncode == 3
    assert "requeued" not in printed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_a_script_and_says_how_it_is_used(script, shell):
    subprocess.run(["bash", "-n", str(script)], check=True)
    header = script.read_text()
    for heading in ("Command:", "Needs:", "Change:", "Ends:"):
        assert f"# {heading}" in header
    process = shell(script.name)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "usage:" in printed


def test_without_a_cluster_auto_says_so(shell, tmp_path):
    (tmp_path / "bin" / "srun").write_text('#!/usr/bin/env bash\nshift\nexec "$@"\n')
    job = shell("slurm.sbatch", "experiment.py", "run")
    printed, _ = job.communicate(timeout=60)
    assert job.returncode == 1
    assert "--coordinator auto finds no cluster in this process's environment" in printed
    assert not (tmp_path / "run").exists()
