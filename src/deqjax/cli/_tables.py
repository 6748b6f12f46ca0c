"""What the commands print of a run and of its scores."""

import math
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from deqjax._scores import class_scores, scores, words_of_score

if TYPE_CHECKING:
    from rich.table import Table

    from deqjax.training import DepthScore, Outcome, RunConfig


def print_outcome(outcome: "Outcome", config: "RunConfig", options: Sequence[str]) -> None:
    """Print how a run ended, and what to do next.

    Args:
        outcome: how it ended.
        config: the run's.
        options: the words after ``deqjax train`` that it was started with.
    """
    folder = outcome.workdir.path
    if outcome.metrics is None:
        saved = "a checkpoint was saved"
        if outcome.rescued is not None:
            saved = f"its checkpoint lies in {outcome.rescued}: move it to {folder}/checkpoints"
        words = [*_without_folder(options), "--workdir", str(folder), "--resume"]
        print(
            f"stopped at step {outcome.step} of {config.steps}; {saved}. Continue "
            f"with: deqjax train {shlex.join(words)}"
        )
        return
    print_scores(f"{config.name} after {outcome.step} steps, validation data", outcome.metrics)
    print(
        f"trained in {outcome.seconds:.0f} s; picture: {outcome.workdir.picture}, "
        f"records: {outcome.workdir.metrics}"
    )
    if outcome.rescued is not None:
        print(
            f"the last checkpoint could not be saved there, and lies in {outcome.rescued}: move it "
            f"to {folder}/checkpoints"
        )
    from deqjax.tasks.language import TextTask

    prompt = outcome.task.prompt if isinstance(outcome.task, TextTask) else None
    if prompt is None:
        print(f"try: deqjax evaluate {shlex.quote(str(folder))} --split test")
    else:
        print(f"try: deqjax generate {shlex.quote(str(folder))} {shlex.quote(prompt)}")


def _without_folder(options: Sequence[str]) -> list[str]:
    """Without --workdir and --resume, which are told anew."""
    kept: list[str] = []
    words = iter(options)
    for word in words:
        if word == "--workdir":
            next(words, None)
        elif word != "--resume" and not word.startswith("--workdir="):
            kept.append(word)
    return kept


_ROWS = {
    "scored": ("scored", ",.0f"),
    "forward_steps": ("solver steps, mean", ".1f"),
    "forward_residual": ("residual, mean", ".1e"),
    "forward_converged": ("samples converged", ".1%"),
    "forward_diverged": ("samples diverged", ".1%"),
    "spectral_radius": ("spectral radius, mean", ".3f"),
    "spectral_radius_max": ("spectral radius, largest", ".3f"),
}
"""What the engine measures of any task, below the task's own scores."""


def print_scores(title: str, metrics: dict[str, float]) -> None:
    """Print scores as a table."""
    names = scores(metrics)
    # bytes are told in bits, as everyone compares them
    first = [] if "bits_per_byte" in metrics or "loss" not in metrics else ["loss"]
    told = [*first, *names, *(name for name in _ROWS if name in metrics)]
    rows = [(_words(name)[0], format(metrics[name], _words(name)[1])) for name in told]
    for name in class_scores(metrics):
        shown = "does not occur" if math.isnan(metrics[name]) else f"{metrics[name]:.4f}"
        rows.append((f"  {name.partition('/')[2]}", shown))
    print_pairs(title, ("measured", "value"), rows)


def _words(name: str) -> tuple[str, str]:
    if name == "loss":
        return "loss", ".4f"
    return _ROWS[name] if name in _ROWS else words_of_score(name)


def print_pairs(title: str, columns: tuple[str, str], rows: Iterable[tuple[str, str]]) -> None:
    """Print a table of names and values."""
    from rich.console import Console

    table = _table(title)
    table.add_column(columns[0])
    table.add_column(columns[1], justify="right")
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table, markup=False)


def print_depths(title: str, found: "Sequence[DepthScore]") -> None:
    """Print the scores of a run at several depths as a table."""
    from rich.console import Console

    table = _table(title)
    names = [*found[0].others, "loss", "forward_residual"]
    for name in ("solver steps", *(_words(name)[0] for name in names)):
        table.add_column(name, justify="right")
    for each in found:
        values = each.others | {"loss": each.loss, "forward_residual": each.residual}
        table.add_row(str(each.depth), *(format(values[name], _words(name)[1]) for name in names))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a pipe has no width, and numbers would be cut
    console.print(table, markup=False)


def _table(title: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    # a folder may be called "[red]", which is no markup
    return Table(title=Text(title, style="table.title"), title_justify="left")
