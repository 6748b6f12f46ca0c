"""Kills runs at random moments, lets them go on, and compares them with one that nobody disturbed.

Command:   python experiments/benchmarks/kill_resume.py [--kills 10 4 2] [--steps 600]
           [--mutant all|none|data|...] [--devices 2] [--parallel sharded] [--seed 0]
           [--out FOLDER]
Hardware:  two CPU cores, no GPU
Time:      about five minutes, most of them starts of Python
Expected:  every run that was killed is equal to the undisturbed one, and every mutant is noticed
           (experiments/results/kill_resume.json); exit status 0 says so

Each run is the real command line in a process of its own: text in streams, with a memory, dropout,
a penalty, AdamW and a moving average; digits, augmented at random, with batch normalizations; and
the experiments of one's own: NNX, Linen, a graph. It is killed with SIGKILL: while it starts,
between two saves, and while a checkpoint is being saved; each time it is started again with
--resume. Equal means: the hash of the whole last state, the checkpoint of every step gone on from,
the position in the data, and every record of metrics.jsonl that does not measure the machine, all
bit for bit.

A mutant goes on from the same folder as the last honest start, but forgets something on the way:
where it was in the data, the optimizer's state, or the key of dropout and probes. If its end were
the same, then the comparison would prove nothing.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any, Literal, NamedTuple

import jax
from rich.table import Table

from children import (
    FAST_COMPILER,
    Child,
    command_line,
    end_cleanly_when_terminated,
    wait_until,
    wide_console,
)
from deqjax.training import read_metrics
from deqjax.training._workdir import Workdir, holds_run
from deqjax.training.checkpoints._checkpoints import Checkpoints
from deqjax.training.records._reading import comparable
from spoiled_run import FORGOTTEN
from timing import RESULTS, environment, save
from tiny_runs import image_run, own_run, text_run, write_text

LIMIT = 900.0  # seconds of any process
WHAT = ("TEXT", "IMAGES", "OWN")
OWN = ("spirals", "linen_digits", "graph")  # one way to write a task each
When = Literal["starting", "training", "saving"]


class Kill(NamedTuple):
    """When to kill: some seconds after the start, or after a step's checkpoint was seen.

    Attributes:
        when: "saving" waits for the folder of a checkpoint under way, "training" for a whole one.
        step: the first step whose checkpoint counts; of no use while the process starts.
        delay: seconds after that.
    """

    when: When
    step: int
    delay: float


class End(NamedTuple):
    """What a run has come to.

    Attributes:
        step: of the last checkpoint.
        state_hash: its own.
        recorded_hash: that of the last record of a checkpoint.
        leaves: digest of each leaf of its state.
        position: in the data.
        records: the comparable ones, as JSON, in which NaN equals NaN.
    """

    step: int
    state_hash: str
    recorded_hash: str
    leaves: dict[str, str]
    position: Any
    records: list[str]


def plan(kills: int, steps: int, seed: int) -> list[Kill]:
    """Random moments, at rising steps: a fifth while starting, half of the rest while saving."""
    draw = random.Random(seed)
    places = sorted(draw.sample(range(1, max(int(0.85 * steps), kills + 1)), kills))
    starting = set(draw.sample(range(kills), kills // 5))
    plans, saving = [], True
    for number, step in enumerate(places):
        if number in starting:
            plans.append(Kill("starting", step, draw.uniform(1, 15)))
            continue
        longest = 0.1 if saving else 0.5
        plans.append(Kill("saving" if saving else "training", step, draw.uniform(0, longest)))
        saving = not saving
    return plans


def under_way(checkpoints: Path) -> set[str]:
    """Folders of checkpoints that are being saved, or were when the process was killed."""
    names = _names(checkpoints)
    return {name for name in names if ".orbax-checkpoint-tmp" in name}


def is_time(kill: Kill, checkpoints: Path, before: set[str]) -> bool:
    """Whether the checkpoint that a kill waits for is there.

    Args:
        kill: the plan.
        checkpoints: folder of the run's checkpoints.
        before: what was in it when the process started.
    """
    new = _names(checkpoints) - before
    if kill.when == "saving":
        return any(
            ".orbax-checkpoint-tmp" in name and int(name.partition(".")[0]) >= kill.step
            for name in new
        )
    return any(name.isdigit() and int(name) >= kill.step for name in new)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def end_of(folder: Path) -> End:
    """What lies in a run's folder; every byte of the last checkpoint is verified."""
    run = Workdir(folder)
    records = comparable(read_metrics(run.metrics))
    recorded = [r["state_hash"] for r in records if r["split"] == "checkpoint"]
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        if step is None or not recorded:
            raise SystemExit(f"there is no checkpoint in {folder}")
        state_hash = checkpoints.state_hash(step)
    text = (run.checkpoints / str(step) / "meta" / "metadata").read_text()
    content = json.loads(text)["content"]
    leaves = {name: digest for name, (_, digest) in content["leaves"].items()}
    lines = [json.dumps(record, sort_keys=True) for record in records]
    return End(step, state_hash, recorded[-1], leaves, content["position"], lines)


def difference(one: End, other: End) -> dict[str, Any]:
    """What two runs differ in; "equal" is True if in nothing."""
    differing = [name for name in one.leaves if one.leaves[name] != other.leaves.get(name)]
    pairs = enumerate(zip(one.records, other.records, strict=False))
    first = next((number for number, (a, b) in pairs if a != b), None)
    found: dict[str, Any] = {
        "state_hash": one.state_hash == other.state_hash,
        "recorded_hashes": {one.recorded_hash, other.recorded_hash}
        == {one.state_hash, other.state_hash},
        "position": one.position == other.position,
        "records": one.records == other.records,
    }
    return {
        "equal": one.step == other.step and all(found.values()),
        **found,
        "differing_leaves": len(differing),
        "differing_parameters": sum("weights.parameters" in name for name in differing),
        "leaves": len(one.leaves),
        "first_differing_record": None if first is None else json.loads(other.records[first]),
    }


def is_noticed(found: dict[str, Any]) -> bool:
    """Whether a mutant has other parameters and other records, not only another key."""
    return not found["state_hash"] and not found["records"] and found["differing_parameters"] > 0


class Run:
    """A run of the command line in a folder, started as often as it takes.

    Args:
        arguments: of ``deqjax train``.
        folder: of the run.
        devices: virtual devices of the CPU.
        parallel: how they share a batch.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, devices: int, parallel: str) -> None:
        self.arguments, self.folder, self.devices = arguments, folder, devices
        self.parallel = parallel
        self.starts = 0
        self.seconds = 0.0
        self.kills: list[dict[str, Any]] = []

    @property
    def checkpoints(self) -> Path:
        """Folder of its checkpoints."""
        return Workdir(self.folder).checkpoints

    def start(self, fault: str | None = None) -> Child:
        """Start the run, or go on with it."""
        words = ["train", *self.arguments, "--workdir", str(self.folder)]
        words += ["--devices", str(self.devices), "--parallel", self.parallel]
        if holds_run(self.folder):
            words.append("--resume")
        self.starts += 1
        log = self.folder.with_name(f"{self.folder.name}-{self.starts}.log")
        return Child(command_line(*words, fault=fault), log, FAST_COMPILER)

    def to_its_end(self, fault: str | None = None) -> End:
        """Run until the last step."""
        with self.start(fault) as child:
            wait_until(lambda: child.status is not None, LIMIT)
            self.seconds += child.seconds
            if child.status != 0:
                raise SystemExit(f"status {child.status} of {self.folder}:\n{child.output()}")
        return end_of(self.folder)

    def kill(self, kill: Kill) -> None:
        """Start it, kill it at some moment, and note what that moment was."""
        before = _names(self.checkpoints)
        with self.start() as child:
            if kill.when != "starting":
                wait_until(
                    lambda: is_time(kill, self.checkpoints, before),
                    LIMIT,
                    between=0.002,
                    or_end_of=[child],
                )
            wait_until(lambda: child.status is not None, kill.delay, between=0.001)
            child.send(SIGKILL)
            child.kill()
            self.seconds += child.seconds
            if child.status != -SIGKILL:
                raise SystemExit(f"{self.folder} ended before it was killed:\n{child.output()}")
            resumed = [line for line in child.output().splitlines() if line.startswith("resuming")]
        left = under_way(self.checkpoints) - before
        last = Workdir(self.folder).metrics
        self.kills.append(
            {
                "when": kill.when,
                "seconds_after_start": round(child.seconds, 2),
                "resumed": resumed[0] if resumed else None,
                "last_record": max((r["step"] for r in read_metrics(last)), default=0),
                "checkpoint_under_way": sorted(left),
            }
        )


def judge(
    name: str,
    arguments: Sequence[str],
    kills: int,
    mutants: Sequence[str],
    options: argparse.Namespace,
    folder: Path,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Train undisturbed, train under fire, let mutants go on; one row each."""
    devices, parallel = options.devices, options.parallel
    whole = Run(arguments, folder / f"{name}-whole", devices, parallel)
    wanted = whole.to_its_end()
    say(f"{name}: undisturbed, {wanted.step} steps in {whole.seconds:.0f} s")
    run = Run(arguments, folder / name, devices, parallel)
    for kill in plan(kills, options.steps, options.seed):
        run.kill(kill)
        last = run.kills[-1]
        say(f"{name}: killed while {last['when']}, under way: {last['checkpoint_under_way']}")
    copies = {mutant: folder / f"{name}-{mutant}" for mutant in mutants}
    for copy in copies.values():
        shutil.copytree(run.folder, copy)
    rows = [row(name, None, run, run.to_its_end(), wanted)]
    for mutant, copy in copies.items():
        forgetful = Run(arguments, copy, devices, parallel)
        forgetful.starts, forgetful.kills = run.starts - 1, run.kills
        rows.append(row(name, mutant, forgetful, forgetful.to_its_end(mutant), wanted))
        say(f"{name}: without {mutant}, ended")
    return rows


def row(name: str, mutant: str | None, run: Run, end: End, wanted: End) -> dict[str, Any]:
    """The result of one run."""
    found = difference(wanted, end)
    return {
        "run": name,
        "forgets": mutant,
        "steps": end.step,
        "kills": len(run.kills),
        "kills_during_a_save": sum(bool(kill["checkpoint_under_way"]) for kill in run.kills),
        "restarts": run.starts - 1,
        "seconds": round(run.seconds, 1),
        "state_hash": end.state_hash,
        "undisturbed_state_hash": wanted.state_hash,
        "compared": found,
        "as_expected": found["equal"] if mutant is None else is_noticed(found),
        **({} if mutant else {"moments": run.kills}),
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for the reader."""
    shown = Table(title="Runs that were killed, beside undisturbed ones", title_justify="left")
    for heading in ("run", "forgets"):
        shown.add_column(heading)
    for heading in ("kills", "in a save", "restarts", "steps", "seconds", "state", "undisturbed"):
        shown.add_column(heading, justify="right")
    shown.add_column("comparison")
    for each in rows:
        equal = "equal" if each["compared"]["equal"] else "DIFFERENT"
        if each["forgets"]:
            changed = each["compared"]["differing_leaves"]
            total = each["compared"]["leaves"]
            equal = f"noticed ({changed} of {total} leaves)" if each["as_expected"] else "MISSED"
        numbers = ("kills", "kills_during_a_save", "restarts", "steps", "seconds")
        shown.add_row(
            each["run"],
            each["forgets"] or "nothing",
            *(str(each[number]) for number in numbers),
            each["state_hash"][:8],
            each["undisturbed_state_hash"][:8],
            equal,
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, compare, print, write; 0 if all is as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, nargs=3, default=(10, 4, 2), metavar=WHAT)
    parser.add_argument("--mutant", choices=("all", "none", *FORGOTTEN), default="all")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--devices", type=int, default=1, help="virtual devices of the CPU")
    parser.add_argument("--parallel", choices=("pmap", "sharded"), default="pmap")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    end_cleanly_when_terminated()
    jax.config.update("jax_platforms", "cpu")
    mutants = {"all": FORGOTTEN, "none": ()}.get(options.mutant, (options.mutant,))
    console = wide_console()
    with tempfile.TemporaryDirectory(prefix="kill_resume-") as place:
        folder = Path(place)
        text = folder / "text.txt"
        write_text(text, seed=0)
        runs = {
            "text": text_run(options.steps, folder, text),
            "images": image_run(options.steps),
            **{name: own_run(name, options.steps) for name in OWN},
        }
        text_kills, image_kills, own_kills = options.kills
        counts = [text_kills, image_kills, *[own_kills] * len(OWN)]
        rows = []
        for (name, words), kills in zip(runs.items(), counts, strict=True):
            if kills:
                chosen = mutants if name == "text" else ()
                rows += judge(name, words, kills, chosen, options, folder, console.print)
    console.print(table(rows))
    record = environment(("jax", "orbax-checkpoint", "grain", "flax", "optax", "deqjax"))
    names = ("steps", "devices", "parallel", "seed")
    settings = {name: getattr(options, name) for name in names}
    save(options.out, "kill_resume", record | settings | {"runs": rows}, None)
    return 0 if all(each["as_expected"] for each in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
