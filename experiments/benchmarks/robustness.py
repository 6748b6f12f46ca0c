"""How many standard problems each solver solves, and in how many evaluations.

Command:   python experiments/benchmarks/robustness.py [--contenders deqjax "scipy hybr"
           --families SciPy KINSOL --out experiments/results --quick]
Hardware:  any; nothing is timed
Time:      half an hour on two idle CPU cores for all contenders, a minute for one of ours, most of
           it compilation, which JAX_DISABLE_MOST_OPTIMIZATIONS=1 shortens
Expected:  see experiments/results/robustness.json
Peers:     pip install -e '.[peers]' (Banax on Python >= 3.12 alone)

Problems are written from their equations (`equations_*.py` cite them); float64, one sample each.
Solvers of z = f(z) get z - F(z) where the problem is F = 0, the same sign for all; solvers of
F = 0 get F, or z - f(z). A problem is solved if the returned value is within 1e-6 max(1, ||z||) of
a root, the one that Newton's method with a dense Jacobian finds from it, after at most 200
evaluations. Directional derivatives count one each, so a dense Jacobian of n columns n; SciPy's
own differences count as the evaluations that they are. Each solver stops by its own criterion, at
the loosest of its own tolerances 1e-7, 1e-9, 1e-12 at which it returns a root (Banax's, which are
constants of a compiled program, at 1e-9). SciPy's solvers end at the budget and then return the
best point that they evaluated.

Contenders that are not chosen keep what an earlier record of the same problems says of them.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from attempts import Attempts
from contenders import OURS
from deqjax import plot
from equations import Problem, problems
from root_contenders import BUDGET, Entry, choose, entries
from timing import RESULTS, environment, save

BEST = f"best of {OURS}"
BEST_DEFAULT = f"best of {OURS}'s defaults"
Counts = dict[str, list[int | None]]
"""Evaluations of each contender on each problem, None where it failed."""


def measure(chosen: Sequence[Entry], listed: Sequence[Problem]) -> tuple[Counts, Counts]:
    """Every contender on every problem: evaluations and the tolerance they took."""
    counts: Counts = {}
    tolerances: Any = {}
    attempts = Attempts()
    for entry in chosen:
        name = entry.contender.name
        found = [attempts.attempt(entry, problem) for problem in listed]
        counts[name] = [each.evaluations for each in found]
        tolerances[name] = [each.tolerance for each in found]
        solved = sum(count is not None for count in counts[name])
        print(f"{name}: {solved} of {len(listed)}", flush=True)
    return counts, tolerances


def best(counts: Counts, names: Sequence[str]) -> list[int | None]:
    """The fewest evaluations of any of these contenders on each problem."""
    return [
        min((count for count in row if count is not None), default=None)
        for row in zip(*(counts[name] for name in names), strict=True)
    ]


def shortfalls(counts: Counts, listed: Sequence[Problem], ours: Sequence[str]) -> list[dict]:
    """Problems that a peer solves and we do not, or in half of our evaluations."""
    peers = [name for name in counts if not name.startswith(OURS)]
    if not peers or not ours:
        return []
    mine, theirs = best(counts, ours), best(counts, peers)
    found = []
    for index, (problem, own, other) in enumerate(zip(listed, mine, theirs, strict=True)):
        if other is not None and (own is None or 2 * other <= own):
            winner = next(name for name in peers if counts[name][index] == other)
            row = {"family": problem.family, "problem": problem.name, "peer": winner}
            found.append({**row, "evaluations": other, "ours": own})
    return found


def show(counts: Counts, listed: Sequence[Problem], missed: Sequence[dict]) -> None:
    """Print the table by family, and where a peer does better."""
    console = Console(width=None if Console().is_terminal else 170)
    families = list(dict.fromkeys(problem.family for problem in listed))
    table = Table(title=f"Solved with at most {BUDGET} evaluations", title_justify="left")
    table.add_column("solver", no_wrap=True)
    sizes = [sum(p.family == family for p in listed) for family in families]
    for family, size in zip(families, sizes, strict=True):
        table.add_column(f"{family} ({size})", justify="right")
    table.add_column(f"all ({len(listed)})", justify="right")
    table.add_column("evaluations, median", justify="right")
    for name, row in counts.items():
        solved = [count is not None for count in row]
        cells = [
            sum(ok for ok, p in zip(solved, listed, strict=True) if p.family == family)
            for family in families
        ]
        median = np.median([c for c in row if c is not None]) if any(solved) else np.nan
        style = "bold" if OURS in name else ""
        table.add_row(name, *map(str, cells), str(sum(solved)), f"{median:.0f}", style=style)
    console.print(table)
    for row in missed:
        console.print(
            f"{row['family']}, {row['problem']}: {row['peer']} {row['evaluations']}, "
            f"ours {row['ours'] or 'not'}",
            highlight=False,
        )


def draw(counts: Counts, total: int) -> Any:
    """The share of the problems that is solved with so many evaluations."""
    figure = plot.new_figure(8.5, 5.5, f"{total} problems, error at most 1e-6")
    axes = figure.subplots()
    for index, (name, row) in enumerate(counts.items()):
        spent = np.sort([count for count in row if count is not None])
        share = np.arange(1, len(spent) + 1) / total
        label = f"{name}: {len(spent)}"
        style = plot.line_style(index)
        axes.step(
            [*spent, BUDGET], [*share, len(spent) / total], where="post", label=label, **style
        )
    axes.set_xscale("log")
    axes.set_xlim(2, BUDGET)
    axes.set_ylim(0, 1)
    axes.set_xlabel("evaluations, directional derivatives included")
    axes.set_ylabel("share of the problems solved")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    return figure


def lines(counts: Counts) -> Counts:
    """What the picture shows: ours with default options, and the best solver of each peer."""
    ours = {name: row for name, row in counts.items() if OURS in name and "," not in name}
    packages = dict.fromkeys(name.split()[0] for name in counts if OURS not in name)
    for package in packages:
        rows = [(name, row) for name, row in counts.items() if name.startswith(package)]
        name, row = max(rows, key=lambda each: sum(count is not None for count in each[1]))
        ours[name] = row
    return ours


def merge(path: Path, counts: Counts, tolerances: Counts, names: Sequence[str]) -> None:
    """Add what an earlier record of the same problems says of other contenders."""
    if not path.exists():
        return
    earlier = json.loads(path.read_text())
    if earlier["problems"] != list(names):
        return
    for name, row in earlier["evaluations"].items():
        if name not in counts and not name.startswith("best of"):
            counts[name], tolerances[name] = row, earlier["tolerances"][name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contenders", nargs="+", help="packages or 'package method'; all")
    parser.add_argument("--families", nargs="+", help="default: all")
    parser.add_argument("--quick", action="store_true", help="few problems, to try the script")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    found, missing = entries()
    for package, reason in missing.items():
        print(f"skipped: {package}: {reason}")
    chosen = choose(found, options.contenders)
    with jax.enable_x64(True):
        listed = problems()
        families = list(dict.fromkeys(problem.family for problem in listed))
        unknown = [name for name in options.families or () if name not in families]
        if unknown:
            raise SystemExit(f"no family {unknown[0]!r}: choose from {', '.join(families)}.")
        listed = [p for p in listed if p.family in (options.families or families)]
        if options.quick:
            listed = listed[:3]
        counts, tolerances = measure(chosen, listed)
    names = [f"{problem.family}: {problem.name}" for problem in listed]
    merge(options.out / "robustness.json", counts, tolerances, names)
    order = [e.contender.name for e in found if e.contender.name in counts]
    counts = {name: counts[name] for name in order}
    ours = [name for name in order if name.startswith(OURS)]
    defaults = [name for name in ours if "," not in name]
    if ours:
        counts[BEST] = best(counts, ours)
    if defaults:
        counts[BEST_DEFAULT] = best(counts, defaults)
    missed = shortfalls(
        {name: row for name, row in counts.items() if not name.startswith("best of")}, listed, ours
    )
    show(counts, listed, missed)
    packages = ("jax", "jaxlib", "deqjax", "jaxopt", "optimistix", "banax", "torch", "torchdeq")
    record = {
        **environment((*packages, "scipy", "lineax", "numpy")),
        "budget": BUDGET,
        "skipped": missing,
        "solved": {name: sum(c is not None for c in row) for name, row in counts.items()},
        "peer_needs_half_or_we_fail": missed,
        "problems": names,
        "evaluations": counts,
        "tolerances": {name: tolerances[name] for name in order},
    }
    save(options.out, "robustness", record, draw(lines(counts), len(listed)))


if __name__ == "__main__":
    main()
