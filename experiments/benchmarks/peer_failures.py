"""Lets two processes that train together fail in every way we know of, and looks at how they end.

Command:   python experiments/benchmarks/peer_failures.py [--cases NAME ...] [--out FOLDER]
Hardware:  two CPU cores, no GPU; Linux
Time:      about twelve minutes, most of them starts of Python
Expected:  every case is as expected, and nothing listens but on the loopback interface
           (experiments/results/peer_failures.json); exit status 0 says so

Two processes with two virtual devices each, on this machine. One of them is killed, stopped, stuck,
raises an error, is missing, was started in another way, or is asked to stop. Expected is that both
end in time, with the right exit status and a sentence that names who is to blame; and where the
run can go on, that it ends in the very same state as a run that nobody disturbed.
"""

import argparse
import dataclasses
import re
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM, Signals
from typing import Any

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
from deqjax.training._workdir import Workdir
from sockets import is_loopback, listening
from spoiled_run import FAULT_BEGINS
from timing import RESULTS, environment, save, verdict
from tiny_runs import text_run, write_text

REPOSITORY = Path(__file__).parents[2]
HEARTBEAT, JOIN, DEADLINE = 5, 20, 40
STEPS = 60
START = 60.0  # seconds that Python may need to get going on a busy machine
LIMIT = 600.0  # seconds of any process, whatever is expected
SLACK = 10.0  # seconds for threads that wait for their turn


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that goes wrong, and what is expected then.

    Attributes:
        name: of the case.
        statuses: exit status of each process, minus the signal's number if one kills it; None
            where the script itself has to kill it at the end.
        within: seconds in which those that can end do so, from the moment that it goes wrong;
            from the start, if it is wrong from the start.
        says: what the error of each process contains; None is not looked at.
        sends: a signal, and to which process, once step 6 is saved.
        pauses: seconds for which both are stopped then, as a machine that is suspended.
        faults: of each process, for `spoiled_run`.
        started: which processes are.
        options: further ones of each process.
        resumes: whether the run can go on, to the state of the undisturbed one.
    """

    name: str
    statuses: tuple[int | None, int | None]
    within: float = LIMIT
    says: tuple[str | None, str | None] = (None, None)
    sends: tuple[Signals, int] | None = None
    pauses: float = 0.0
    faults: tuple[str | None, str | None] = (None, None)
    started: tuple[int, ...] = (0, 1)
    options: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    resumes: bool = False

    @property
    def from_the_start(self) -> bool:
        """Whether nothing goes wrong later on."""
        return self.sends is None and self.faults == (None, None) and not self.pauses


def cases() -> list[Case]:
    """All of them; the undisturbed run comes first."""
    silence, told = HEARTBEAT + SLACK, 3 + SLACK
    three, gone = ("--num-processes", "3"), "process 0, which coordinates the run, is gone"
    return [
        Case("nothing goes wrong", (0, 0)),
        Case(
            "worker killed",
            (1, -SIGKILL),
            silence,
            ("process 1", None),
            sends=(SIGKILL, 1),
            resumes=True,
        ),
        Case(
            "coordinator killed",
            (-SIGKILL, 1),
            silence,
            (None, "process 0"),
            sends=(SIGKILL, 0),
            resumes=True,
        ),
        Case("worker stopped", (1, None), silence, ("process 1", None), sends=(SIGSTOP, 1)),
        Case("coordinator stopped", (None, 1), silence, (None, "process 0"), sends=(SIGSTOP, 0)),
        Case(
            "worker stuck",
            (1, 1),
            DEADLINE + SLACK,
            ("process 1 made no progress", None),
            faults=(None, "stuck"),
        ),
        Case(
            "coordinator stuck",
            (1, 1),
            DEADLINE + SLACK,
            (None, f"process 0 made no progress|{gone}"),
            faults=("stuck", None),
        ),
        Case(
            "worker raises",
            (1, 1),
            told,
            ("process 1 ended with an error: OSError: the disk", "the disk"),
            faults=(None, "raises"),
        ),
        Case(
            "coordinator raises",
            (1, 1),
            told,
            ("the disk", f"process 0 ended with an error: OSError: the disk|{gone}"),
            faults=("raises", None),
        ),
        Case(
            "worker missing",
            (1, None),
            START + JOIN + SLACK,
            ("not all 2 processes came", None),
            started=(0,),
        ),
        Case(
            "coordinator missing",
            (None, 1),
            START + JOIN + SLACK,
            (None, "process 0 did not answer"),
            started=(1,),
        ),
        Case(
            "worker counts three",
            (1, 1),
            START + JOIN + SLACK,
            ("--num-processes", "--num-processes"),
            options=((), three),
        ),
        Case(
            "coordinator counts three",
            (1, 1),
            START + JOIN + SLACK,
            ("--num-processes", "--num-processes"),
            options=(three, ()),
        ),
        Case(
            "another configuration",
            (1, 1),
            START + SLACK,
            ("process 1 has another configuration", "learning_rate"),
            options=((), ("--optimizer.learning-rate", "0.5")),
        ),
        Case(
            "other data",
            (1, 1),
            START + SLACK,
            ("process 1 has another training data", "another training data"),
        ),
        Case("both paused", (0, 0), START, pauses=HEARTBEAT + 2.0),
        Case("SIGTERM to the worker", (0, 0), START, sends=(SIGTERM, 1), resumes=True),
        Case("SIGINT to the coordinator", (130, 130), START, sends=(SIGINT, 0), resumes=True),
    ]


class Pair:
    """Both processes of a run, in folders of their own; a context manager.

    Args:
        case: how they are started.
        place: folder of all cases.
        deadline: for progress.
        resume: whether the run goes on.
    """

    def __init__(self, case: Case, place: Path, deadline: int, *, resume: bool = False) -> None:
        self.case, self.place, self.resume = case, place, resume
        self.workdir = place / case.name.replace(" ", "-")
        self._common = [
            *text_run(STEPS, place, file="text.txt"),
            *("--workdir", str(self.workdir), "--devices", "2"),
            *("--coordinator", f"127.0.0.1:{free_port()}"),
            *("--heartbeat", str(HEARTBEAT), "--join-timeout", str(JOIN)),
            *("--deadline", str(deadline)),
            *(["--resume"] if resume else []),
        ]
        self.children: dict[int, Child] = {}
        self.sockets: dict[int, set[str]] = {0: set(), 1: set()}
        self._stack, self._looked = ExitStack(), 0.0

    def __enter__(self) -> "Pair":
        for index in self.case.started:
            # the same name of the file means another text, where the case is about that
            folder = self.place / f"process{index}"
            folder.mkdir(exist_ok=True)
            write_text(folder / "text.txt", seed=index if self.case.name == "other data" else 0)
            own = ["--num-processes", "2", "--process-id", str(index), *self.case.options[index]]
            words = command_line("train", *self._common, *own, fault=self.case.faults[index])
            log = self.place / f"{self.workdir.name}-{'again-' if self.resume else ''}{index}.log"
            child = Child(words, log, FAST_COMPILER, folder)
            self.children[index] = self._stack.enter_context(child)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def look(self) -> None:
        """Note where they listen, once a second: it takes time that they need themselves."""
        if time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        for index, child in self.children.items():
            self.sockets[index] |= listening(child.pid)

    def signal(self) -> None:
        """Send what the case sends."""
        if self.case.sends is not None:
            number, index = self.case.sends
            self.children[index].send(number)
        if self.case.pauses:
            for child in self.children.values():
                child.send(SIGSTOP)
            time.sleep(self.case.pauses)
            for child in self.children.values():
                child.send(SIGCONT)

    def have_ended(self, awaited: Sequence[int]) -> bool:
        """Whether some processes have ended."""
        self.look()
        return all(self.children[index].status is not None for index in awaited)

    def have_saved(self, step: int) -> bool:
        """Whether a step's checkpoint, or a later one, is there."""
        self.look()
        folder = Workdir(self.workdir).checkpoints
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return any(name.isdigit() and int(name) >= step for name in names)

    def have_met_the_fault(self) -> bool:
        """Whether the process with a fault has come to it."""
        self.look()
        return any(FAULT_BEGINS in child.output() for child in self.children.values())

    def state_hash(self) -> str | None:
        """Of the last recorded checkpoint."""
        records = read_metrics(Workdir(self.workdir).metrics)
        found = [r["state_hash"] for r in records if r["split"] == "checkpoint"]
        return found[-1] if found else None


def free_port() -> int:
    """A port of the loopback interface at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def observe(case: Case, place: Path, *, resume: bool = False) -> dict[str, Any]:
    """Run a case, and tell what was seen."""
    # the first run fills the cache of compiled programs, and compiles for longer
    patient = case.from_the_start or resume
    with Pair(case, place, int(LIMIT) if patient else DEADLINE, resume=resume) as pair:
        children, awaited = pair.children, [i for i in case.started if case.statuses[i] is not None]
        began = time.monotonic()
        if case.sends or case.pauses:
            wait_until(lambda: pair.have_saved(6), LIMIT, or_end_of=list(children.values()))
            began = time.monotonic()
            pair.signal()
        elif not case.from_the_start:
            wait_until(pair.have_met_the_fault, LIMIT, or_end_of=list(children.values()))
            began = time.monotonic()
        wait_until(lambda: pair.have_ended(awaited), min(case.within + 60, LIMIT))
        statuses = {index: child.status for index, child in children.items()}
        ends = {i: round(child.ended - began, 1) for i, child in children.items() if child.ended}
    records = Workdir(pair.workdir).metrics
    return {
        "statuses": statuses,
        "seconds": max(ends.values(), default=round(time.monotonic() - began, 1)),
        "ended_after": ends,
        "said": {
            i: last_lines(c.output().replace(f"{place}/", "").replace(f"{REPOSITORY}/", ""))
            for i, c in children.items()
        },
        "errors": {index: error_of(child.output()) for index, child in children.items()},
        "tracebacks": sum("Traceback (most recent" in c.output() for c in children.values()),
        "sockets": {index: sorted(found) for index, found in pair.sockets.items()},
        "state_hash": pair.state_hash(),
        "last_step": max((r["step"] for r in read_metrics(records)), default=0),
    }


def last_lines(output: str, count: int = 2) -> list[str]:
    """The last lines that are not empty, each cut at 300 characters."""
    lines = [line[:300] for line in re.split(r"[\r\n]", output) if line.strip()]
    return lines[-count:]


def error_of(output: str) -> str | None:
    """The sentence in which the command line tells its error."""
    found = re.findall(r"^deqjax: error: (.*)$", output, re.MULTILINE)
    return found[0] if found else None


def objections(case: Case, seen: dict[str, Any]) -> list[str]:
    """What is not as expected."""
    found = []
    for index in case.started:
        status, wanted = seen["statuses"][index], case.statuses[index]
        if status != wanted:
            found.append(f"process {index} ended with {status}, not {wanted}")
        pattern, error = case.says[index], seen["errors"][index]
        if pattern is not None and not (error and re.search(pattern, error)):
            found.append(f"process {index} does not say {pattern!r}")
    if seen["seconds"] > case.within:
        found.append(f"took {seen['seconds']} s, not {case.within:g} at most")
    if seen["tracebacks"] and "raises" not in case.faults:  # an unexpected error may show its own
        found.append("a traceback")
    open_to_all = {a for each in seen["sockets"].values() for a in each if not is_loopback(a)}
    if open_to_all:
        found.append(f"listens at {', '.join(sorted(open_to_all))}")
    return found


def judge(case: Case, place: Path, undisturbed: str | None) -> dict[str, Any]:
    """Run a case and, where it can, let it go on; the result and what is wrong with it."""
    seen = observe(case, place)
    found = objections(case, seen)
    row: dict[str, Any] = {"case": case.name, "expected_within": case.within, **seen}
    if case.resumes:
        going_on = dataclasses.replace(
            case, statuses=(0, 0), within=LIMIT, says=(None, None), sends=None, pauses=0.0
        )
        after = observe(going_on, place, resume=True)
        found += [f"resumed: {each}" for each in objections(going_on, after)]
        if after["state_hash"] != undisturbed:
            found.append("resumed: it ended in another state than the undisturbed run")
        row["resumed"] = after
    return row | {"objections": found, "as_expected": not found}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for the reader."""
    shown = Table(title="Two processes that train together", title_justify="left", show_lines=True)
    for heading, sort in (("case", "left"), ("status", "right"), ("s", "right")):
        shown.add_column(heading, justify=sort)
    for heading in ("process 0 said last", "process 1 said last", "verdict"):
        shown.add_column(heading, overflow="fold")
    for row in rows:
        said = [row["errors"].get(i) or " ".join(row["said"].get(i, [])[-1:]) for i in (0, 1)]
        shown.add_row(
            row["case"],
            " ".join(str(status) for status in row["statuses"].values()),
            str(row["seconds"]),
            *said,
            "; ".join(row["objections"]) or verdict(True),
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, judge, print, write; 0 if all is as expected."""
    everything = cases()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in everything])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    end_cleanly_when_terminated()
    jax.config.update("jax_platforms", "cpu")
    console, rows = wide_console(), []
    first, *others = everything
    with tempfile.TemporaryDirectory(prefix="peer_failures-") as folder:
        for case in [first, *(c for c in others if not options.cases or c.name in options.cases)]:
            undisturbed = rows[0]["state_hash"] if rows else None
            rows.append(judge(case, Path(folder), undisturbed))
            found = "; ".join(rows[-1]["objections"]) or verdict(True)
            console.print(f"{case.name}: {rows[-1]['seconds']} s, {found}", markup=False)
            for index, error in rows[-1]["errors"].items():
                console.print(f"  process {index}: {error}", markup=False)
    console.print(table(rows))
    record = environment(("jax", "orbax-checkpoint", "grain", "flax", "optax", "deqjax"))
    settings = {"steps": STEPS, "heartbeat": HEARTBEAT, "join_timeout": JOIN, "deadline": DEADLINE}
    save(options.out, "peer_failures", record | settings | {"cases": rows}, None)
    return 0 if all(row["as_expected"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
