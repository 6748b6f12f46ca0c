"""An estimate as tables and sentences, and as JSON."""

import json
from typing import TYPE_CHECKING, Any

from deqjax.training.estimate._chips import CHIPS, GIB
from deqjax.training.estimate._estimate import Estimate
from deqjax.training.estimate._parts import PARTS
from deqjax.training.estimate._roofline import ASSUMPTIONS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WORDS = {
    "forward": "forward",
    "backward": "backward",
    "penalty": "penalty",
    "optimizer": "optimizer",
    "rest": "all else",
}


def print_estimate(found: Estimate, console: "Console") -> None:
    """Print an estimate.

    Args:
        found: it.
        console: where to.
    """

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False)

    say(
        f"{found.name}: {found.parameters:,} parameters, {found.rows} rows a step, "
        f"{found.parallel} on {found.devices} devices ({found.target})"
    )
    if found.target == "cpu":
        say(
            "Planned for this CPU; --topology v5e:2x4 plans for a TPU that need not be there, once "
            "its compiler is installed (pip install 'deqjax[tpu]')."
        )
    console.print(_memory(found))
    say(_verdict(found))
    console.print(_parts(found))
    if found.collectives is not None:
        console.print(_collectives(found))
    if found.seconds is not None:
        chip = CHIPS[found.target.partition(":")[0]]
        say(
            f"A step takes {_time(found.seconds.total)} at the least "
            f"({_time(found.seconds.collectives)} of it exchanges), on chips of "
            f"{chip.flops / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:,.0f} GB/s of memory and "
            f"{chip.interconnect / 1e9:.0f} GB/s between them ({chip.source}), if"
        )
        for assumption in ASSUMPTIONS:
            say(f"  - {assumption}")


def estimate_as_json(found: Estimate) -> str:
    """An estimate as JSON, with the chip's figures and the assumptions."""
    values: dict[str, Any] = found._asdict()
    values["limits"] = found.limits._asdict()
    values["memory"] = {**found.memory._asdict(), "fits": found.memory.fits}
    if found.collectives is not None:
        values["collectives"] = [each._asdict() for each in found.collectives]
    if found.seconds is not None:
        values["seconds"] = {**found.seconds._asdict(), "total": found.seconds.total}
        values["assumptions"] = list(ASSUMPTIONS)
        values["chip"] = CHIPS[found.target.partition(":")[0]]._asdict()
    return json.dumps(values, indent=1)


def _verdict(found: Estimate) -> str:
    memory = found.memory
    if memory.fits is None:
        return "How much memory this machine has for it is not looked at."
    told = f"{_binary(memory.total)} of {_binary(memory.room or 0)}"
    if memory.fits:
        return f"It fits: {told} on each device."
    refused = "" if memory.arguments is not None else ", and the compiler refuses it"
    return f"It does not fit: {told} on each device{refused}."


def _memory(found: Estimate) -> "Table":
    memory = found.memory
    rows = {
        "state and batch": memory.arguments,
        "temporary": memory.temporary,
        "output besides": memory.output,
        "program": memory.code,
        "together": memory.total,
    }
    table = _table("memory of each device, by XLA's plan", "", "bytes")
    for name, size in rows.items():
        if size is not None:
            table.add_row(name, _binary(size))
    return table


def _parts(found: Estimate) -> "Table":
    table = _table("one step on each device, at most", "", "FLOP", "bytes moved", "time")
    for part in PARTS:
        moved = "" if found.moved is None else _decimal(found.moved[part])
        seconds = "" if found.seconds is None else _time(found.seconds.parts[part])
        table.add_row(_WORDS[part], _decimal(found.flop[part]), moved, seconds)
    moved = "" if found.moved is None else _decimal(sum(found.moved.values()))
    seconds = "" if found.seconds is None else _time(sum(found.seconds.parts.values()))
    table.add_section()
    table.add_row("together", _decimal(sum(found.flop.values())), moved, seconds)
    return table


def _collectives(found: Estimate) -> "Table":
    if not found.collectives:
        return _table("exchanges between devices: none")
    table = _table("exchanges between devices, in one step", "", "part", "number", "bytes", "where")
    for each in found.collectives:
        where = "in a solve's loop" if each.looping else "once"
        number, size = f"{each.number:,.0f}", _decimal(each.size)
        table.add_row(each.kind, _WORDS[each.part], number, size, where)
    return table


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _decimal(amount: float) -> str:
    """With three figures and a prefix: 1.23 G."""
    for prefix, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if amount >= unit:
            return f"{amount / unit:.4g} {prefix}"
    return f"{amount:.0f}  "


def _binary(size: float) -> str:
    for name, unit in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size:.0f} B"


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e6:.1f} µs"
