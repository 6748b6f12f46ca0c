"""What steps of large recipes need on a TPU, by the programs compiled for it: one table.

Command:   python experiments/estimates.py [PLAN ...]
Hardware:  any; libtpu (pip install '.[tpu]'), no TPU; two CPU cores and 16 GiB
Time:      three to ten minutes of compilation a plan
Expected:  see experiments/results/estimate.json

Each plan is a call of ``deqjax estimate`` in a process of its own, one after the other; those that
are named, or all. Plans of earlier calls stay in the file.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from side_by_side import provenance

HERE = Path(__file__).parent
WIKITEXT = "experiments/language/wikitext103_regularized.py"
IMAGENET = "experiments/vision/imagenet_mdeq_small_regularized.py"
LARGE = "experiments/language/deq_transformer_1b.py"
SHARDED = ["--parallel", "sharded"]
RECIPES = {
    # 56 rows are shared evenly by 8 chips, not by 16
    "wikitext103": [WIKITEXT, "--topology", "v5e:2x4"],
    "imagenet": [IMAGENET, "--topology", "v5e:4x4"],
    "1b": [LARGE, "--topology", "v5e:4x4"],
}
PLANS = {
    f"{name} {parallel}": [*words, *(SHARDED if parallel == "sharded" else [])]
    for name, words in RECIPES.items()
    for parallel in ("pmap", "sharded")
} | {
    "140m sharded": ["experiments/language/attractor_140m.py", "--topology", "v5e:2x2", *SHARDED],
    "370m sharded": ["experiments/language/attractor_370m.py", "--topology", "v5e:2x4", *SHARDED],
    "770m sharded": ["experiments/language/attractor_770m.py", "--topology", "v5e:4x4", *SHARDED],
    "sudoku_extreme pmap": ["experiments/reasoning/sudoku_extreme.py", "--topology", "v5e:2x4"],
}
GIB = 2**30


def planned(words: Sequence[str]) -> dict[str, Any]:
    """The estimate that a command prints, with the command and the CPU time that it took."""
    command = ["deqjax", "estimate", *words, "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-m", *command],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return {"command": " ".join(command), "user_seconds": seconds, **json.loads(done.stdout)}


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one line a plan."""
    table = Table(title="one training step", title_justify="left")
    names = ("", "parameters", "rows", "devices", "GiB each", "of", "fits", "TFLOP each", "s")
    for index, name in enumerate((*names, "CPU s")):
        table.add_column(name, justify="right" if index else "left")
    for name, found in results.items():
        memory, seconds = found["memory"], found["seconds"]
        table.add_row(
            name,
            f"{found['parameters'] / 1e6:,.1f} M",
            f"{found['rows']}",
            f"{found['target']} {found['parallel']}",
            f"{memory['total'] / GIB:.2f}",
            f"{memory['room'] / GIB:.2f}",
            "yes" if memory["fits"] else "no",
            f"{sum(found['flop'].values()) / 1e12:.3f}",
            "" if seconds is None else f"{seconds['total']:.3f}",
            f"{found['user_seconds']:.0f}",
        )
    Console(width=120).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", nargs="*", metavar="PLAN", help=", ".join(PLANS))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    if unknown := set(options.plans) - PLANS.keys():
        parser.error(f"there is no plan {unknown.pop()!r}; there are {', '.join(PLANS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "estimate.json"
    results = json.loads(file.read_text())["results"] if file.exists() else {}
    for name in options.plans or PLANS:
        results[name] = planned(PLANS[name])
        record = provenance("python experiments/estimates.py") | {"results": results}
        file.write_text(json.dumps(record, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
