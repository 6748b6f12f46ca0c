"""Fixed-point solvers against their peers, and against bare evaluations of f.

Command:   python experiments/benchmarks/solvers.py [--repeats 11 --overhead-repeats 41
           --cells matmul transformer mdeq --out experiments/results --quick]
Hardware:  any; the published figures name theirs
Time:      about 15 minutes on two CPU cores, most of it compilation and the slowest peers
Expected:  see experiments/results/solvers.json
Peers:     pip install -e '.[peers]' (Banax on Python >= 3.12 alone); what does not import
           is left out, with the reason

Contenders: every solver has the same f, the same start and the same residual to reach, in one
process, with as many threads for PyTorch as for JAX. The residual is ||f(z) - z|| / ||f(z)|| of the
worst sample at the returned z, measured by one more evaluation. Peers stop on criteria of their
own; each gets the loosest tolerance of its own that reaches the same residual, found by trial
before anything is timed, so that it takes no evaluation more than it needs. Evaluations are counted
while the solver runs; directional derivatives count as evaluations. Some solvers return f(z) of the
last z that they evaluated and leave its own residual unknown; others, ours among them, spend their
last evaluation on the z that they return: the record says which. Times are medians of rounds in
which every contender runs once, ratios are medians of each round's ratio.

Overhead: an Anderson solve that takes all its steps (tolerance 0), over a compiled loop of as many
evaluations z <- f(z).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

import cells
from comparison import REFERENCE, Row, compare, overhead
from contenders import HISTORY, OURS, PEERS, available
from deqjax import plot
from timing import (
    FAILED_COLOR,
    OUR_COLOR,
    PEER_COLOR,
    RESULTS,
    environment,
    save,
    threads,
    verdict,
)

OVERHEAD_STEPS = 29
QUICK_STEPS = 3
OVERHEAD_TARGETS = {"matmul": 1.25, "transformer": 1.03, "mdeq": 1.10}
# peer -> least ratio of its time to ours, at equal or better residual
TIME_TARGETS = {
    "jaxopt anderson vmapped": 20.0,
    "jaxopt anderson": 2.0,
    "torchdeq anderson": 2.0,
    "banax anderson": 1 / 0.9,
}


def targets(rows: Sequence[Row], overheads: Sequence[Row]) -> list[Row]:
    """Every target with what was measured and whether it was met (None: nothing to compare)."""
    found = []
    for cell in dict.fromkeys(row["cell"] for row in rows):
        here = {row["contender"]: row for row in rows if row["cell"] == cell}
        reference = here[REFERENCE]
        for peer, least in TIME_TARGETS.items():
            if peer in here:
                value = here[peer]["over_ours"] if here[peer]["reached"] else None
                text = f"time of {peer} / ours at least {least:.3g}"
                met = None if value is None else reference["reached"] and value >= least
                found.append({"cell": cell, "target": text, "value": value, "met": met})
        found.append({"cell": cell, **_fewest_evaluations(list(here.values()))})
    for row in overheads:
        most = OVERHEAD_TARGETS[row["cell"]]
        text = f"solve / bare f at most {most:.2f}"
        met = row["ratio"] <= most
        found.append({"cell": row["cell"], "target": text, "value": row["ratio"], "met": met})
    return found


def _fewest_evaluations(rows: Sequence[Row]) -> Row:
    def best(ours: bool) -> Row | None:
        chosen = [r for r in rows if r["reached"] and (r["package"] == OURS) == ours]
        return min(chosen, key=lambda r: r["evaluations"], default=None)

    mine, theirs = best(True), best(False)
    text = "our fewest evaluations - the best peer's at most 0"
    if mine is None or theirs is None:
        return {"target": text, "value": None, "met": None if theirs is None else False}
    text += f" ({_counted(mine)}; {_counted(theirs)})"
    difference = mine["evaluations"] - theirs["evaluations"]
    return {"target": text, "value": difference, "met": difference <= 0}


def _counted(row: Row) -> str:
    check = ", the last to check z" if row["last_only_checks"] else ""
    return f"{row['contender']} {row['evaluations']}{check}"


def show(rows: Sequence[Row], overheads: Sequence[Row], goals: Sequence[Row]) -> None:
    """Print the tables."""
    console = Console(width=None if Console().is_terminal else 130)
    for cell in dict.fromkeys(row["cell"] for row in rows):
        here = sorted((r for r in rows if r["cell"] == cell), key=lambda r: r["time_ms"])
        goal, repeats = here[0]["goal"], here[0]["repeats"]
        title = f"{cell} cell: to a residual of {goal:.0e}, medians of {repeats} rounds"
        table = Table(title=title, title_justify="left")
        table.add_column("solver", no_wrap=True)
        for name in ("time (ms)", "evaluations", "residual", "/ bare f", "/ ours", "own tolerance"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in here:
            table.add_row(
                row["contender"],
                f"{row['time_ms']:.2f}",
                str(row["evaluations"]),
                f"{row['residual']:.1e}" + ("" if row["reached"] else " (too large)"),
                f"{row['over_bare']:.2f}",
                f"{row['over_ours']:.2f}",
                f"{row['own_tolerance']:.1e}" + (" (tuned)" if row["tuned"] else ""),
                style="bold" if row["package"] == OURS else "",
            )
        console.print(table)
    for row in overheads:
        console.print(
            f"{row['cell']:12s} {row['evaluations']} evaluations: solve {row['solve_ms']:7.2f} ms, "
            f"bare f {row['bare_ms']:7.2f} ms, ratio {row['ratio']:.3f}, "
            f"residual {row['residual']:.1e}",
            highlight=False,
        )
    for row in goals:
        measured = "not reached by the peer" if row["value"] is None else f"{row['value']:.3g}"
        word = "-" if row["met"] is None else verdict(row["met"])
        console.print(f"{row['cell']:12s} {row['target']}: {measured}  {word}", highlight=False)


def draw(rows: Sequence[Row], device: str) -> Any:
    """Time per contender and cell, on a logarithmic axis."""
    names = list(dict.fromkeys(row["contender"] for row in rows))[::-1]
    found = list(dict.fromkeys(row["cell"] for row in rows))
    figure = plot.new_figure(
        3.2 + 3.4 * len(found), 1.6 + 0.34 * len(names), f"Time to solve: {device}"
    )
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, cell in zip(panels, found, strict=True):
        here = [row for row in rows if row["cell"] == cell]
        for row in here:
            color = OUR_COLOR if row["package"] == OURS else PEER_COLOR
            place = names.index(row["contender"])
            color = color if row["reached"] else FAILED_COLOR
            axes.barh(place, row["time_ms"], color=color, height=0.7)
            shown = f"{row['time_ms']:.3g}" if row["time_ms"] < 100 else f"{row['time_ms']:,.0f}"
            note = f" {shown} ms, {row['evaluations']} f"
            note += "" if row["reached"] else ", too large"
            axes.text(row["time_ms"], place, note, va="center", fontsize=8)
        times = [row["time_ms"] for row in here]
        axes.set_xscale("log")
        left = min(times) / 3
        # the longest bar leaves half of the width to its text
        axes.set_xlim(left, left * (max(times) / left) ** 2)
        axes.set_title(f"{cell}, residual {here[0]['goal']:.0e}", fontsize=10)
        axes.set_xlabel("milliseconds")
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    for color, label in (
        (OUR_COLOR, "deqjax"),
        (PEER_COLOR, "peers"),
        (FAILED_COLOR, "residual too large"),
    ):
        panels[0].barh(0, 0, color=color, label=label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11, help="rounds of all contenders")
    parser.add_argument("--overhead-repeats", type=int, default=41)
    parser.add_argument("--cells", nargs="+", default=cells.NAMES, choices=cells.NAMES)
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats = options.overhead_repeats = 2

    contenders, missing = available(options.peers)
    for package, reason in missing.items():
        print(f"skipped: {package}: {reason}")
    sizes = cells.quick() if options.quick else cells.full_size()
    chosen = [cell for cell in sizes if cell.name in options.cells]
    steps = QUICK_STEPS if options.quick else OVERHEAD_STEPS
    # PyTorch multiplies in full float32 by default; on a GPU JAX would not
    with jax.default_matmul_precision("highest"):
        overheads = [overhead(cell, steps, options.overhead_repeats) for cell in chosen]
        rows = [row for cell in chosen for row in compare(cell, contenders, options.repeats)]
    goals = targets(rows, overheads)
    show(rows, overheads, goals)

    packages = ("jax", "jaxlib", "deqjax", "jaxopt", "optimistix", "lineax", "equinox")
    record = {
        **environment((*packages, "banax", "torch", "torchdeq")),
        "threads": threads(),
        "history": HISTORY,
        "skipped": missing,
        "contenders": rows,
        "overhead": overheads,
        "targets": goals,
    }
    save(options.out, "solvers", record, draw(rows, record["device"]))


if __name__ == "__main__":
    main()
