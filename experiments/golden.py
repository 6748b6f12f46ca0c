"""Compares converted models with what the published implementations compute.

Command:   python experiments/golden.py FOLDER
Hardware:  any
Time:      a few seconds per case on two CPU cores
Expected:  every error below 1e-5; above 1e-4, or if a case cannot be compared, the exit status is 1

FOLDER holds cases in threes: NAME.pth, the published state dict; NAME.json, its configuration; and
NAME.npz, inputs and outputs of the published implementation. Each case is converted and run as
users run it, in float32: float64 would hide nothing, since the weights are float32, and errors stay
two orders of magnitude below the limit.

An error is relative, the larger of max|a - b| / max|b| and ||a - b|| / ||b||: the first tells a
single wrong element, the second an error everywhere that large elements would hide.

Fixed points are solved from zero as far as float32 goes. Random weights may have several: where
ours is another one, the solve starts again at the published one, which must then hold still. A
segment's memory is our own, handed on from the segment before. Of an MDEQ's branches the table has
the largest error.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from golden_attractor import attractor
from golden_case import LIMIT, Case, CaseError, Row
from golden_images import mdeq
from golden_language import deq_transformer
from golden_reasoner import reasoner
from rich.console import Console
from rich.table import Table

from deqjax.convert import read_state_dict

PARTS = (".pth", ".json", ".npz")
# the beginning of a case's name tells how to convert and compare it
COMPARISONS: dict[str, Callable[[Case], list[Row]]] = {
    "attractor_": attractor,
    "deq_transformer_": deq_transformer,
    "mdeq_": mdeq,
    "reasoner_": reasoner,
}


def compare(folder: Path, name: str) -> list[Row]:
    """The rows of a case, one without errors where nothing converts such a model."""
    comparison = next((f for prefix, f in COMPARISONS.items() if name.startswith(prefix)), None)
    if comparison is None:
        return [Row(name, {}, "no converter yet")]
    absent = [name + part for part in PARTS if not (folder / (name + part)).is_file()]
    if absent:
        raise CaseError(f"{', '.join(absent)} not found; a case needs all of {', '.join(PARTS)}.")
    state = read_state_dict(folder / f"{name}.pth")
    config = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise CaseError(f"{name}.json holds no JSON object of options.")
    # an accelerator's fast products of float32 have three digits
    exact = jax.default_matmul_precision("highest")
    with exact, np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return comparison(Case(name, state, config, dict(arrays)))


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print the errors, a table for each family of models, one column per quantity."""
    families: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        families.setdefault(tuple(row.errors), []).append(row)
    for quantities, own in families.items():
        table = Table(title=f"relative errors (at most {LIMIT:g})", title_justify="left")
        table.add_column("case", no_wrap=True)
        for name in quantities:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for row in own:
            table.add_row(row.name, *(f"{error:.1e}" for error in row.errors.values()), row.note)
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare every case of a folder; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # a pipe has no width; tables would be cut to 80 columns
    names = sorted({file.stem for file in folder.glob("*") if file.suffix in PARTS})
    if not names:
        console.print(f"{folder} holds no case ({', '.join(PARTS)}); name a folder of cases.")
        return 1
    rows: list[Row] = []
    failures: list[str] = []
    for name in names:
        try:
            rows += compare(folder, name)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            failures.append(f"{name} failed: {error}")
    failures += [
        f"{row.name}: the error of {quantity} is {value:.1e}, above {LIMIT:g}"
        for row in rows
        for quantity, value in row.errors.items()
        if not value <= LIMIT  # NaN is no success
    ]
    if rows:
        show(console, rows)
    compared = [value for row in rows for value in row.errors.values()]
    if not compared and not failures:
        failures.append(f"no case in {folder} could be compared.")
    for failure in failures:
        console.print(failure)
    if not failures:
        console.print(f"{len(compared)} comparisons, largest error {max(compared):.1e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
