"""A table of text that fits where it is shown: on a terminal, in a file, in a notebook."""

import html
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_BORDER = 3  # characters between two columns
_TITLE = 10  # characters of a title's line, which is broken between words


class Grid:
    """A table of text.

    Args:
        title: stands above it.
        columns: their titles, which are broken between words and after dots and commas.
        rows: one text for each column; the first is the row's name.
        turns: on a terminal that is too narrow, make columns of the rows, in several tables if need
            be; without it, cells are broken.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        turns: bool = False,
    ) -> None:
        self.title = title
        self._columns = tuple(columns)
        self._rows = tuple(map(tuple, rows))
        self._turns = turns

    def print(self, console: "Console") -> None:
        """Print it; a file has room for a line of any length."""
        if not console.is_terminal:
            console.width = max(console.width, self.width)
        parts = [self]
        if self._turns and self.width > console.width:
            parts = list(self._turned()._parts(console.width))
        for part in parts:
            console.print(part._drawn())

    @property
    def width(self) -> int:
        """Characters that it takes if no cell is broken."""
        return 1 + sum(self._widths())

    def html(self) -> str:
        """The table for a notebook."""
        lines = [_html(self._columns, "th"), *(_html(row, "td") for row in self._rows)]
        caption = f"<caption style='text-align:left'>{html.escape(self.title)}</caption>"
        return f"<table>{caption}{''.join(lines)}</table>"

    def __str__(self) -> str:
        from rich import get_console
        from rich.console import Console

        content, terminal = io.StringIO(), get_console()
        width = terminal.width if terminal.is_terminal else self.width
        force = terminal.is_terminal
        console = Console(
            file=content, width=width, force_terminal=force, no_color=True, force_jupyter=False
        )
        self.print(console)
        return content.getvalue().rstrip("\n")

    def _widths(self) -> list[int]:
        from rich.cells import cell_len

        titles = [_broken(title).split("\n") for title in self._columns]
        cells = list(zip(*self._rows, strict=True)) or [()] * len(titles)
        both = zip(titles, cells, strict=True)
        return [max(map(cell_len, [*lines, *texts])) + _BORDER for lines, texts in both]

    def _turned(self) -> "Grid":
        first, *others = zip(self._columns, *self._rows, strict=True)
        return Grid(self.title, first, others)

    def _parts(self, room: int) -> Iterator["Grid"]:
        """The same table in parts that have room, each with the names of the rows."""
        names, *others = self._widths()
        chosen = [0]
        used = 1 + names
        for number, width in enumerate(others, start=1):
            if used + width > room and len(chosen) > 1:
                yield self._only(chosen)
                chosen, used = [0], 1 + names
            chosen.append(number)
            used += width
        yield self._only(chosen)

    def _only(self, numbers: Sequence[int]) -> "Grid":
        rows = [[row[i] for i in numbers] for row in self._rows]
        return Grid(self.title, [self._columns[i] for i in numbers], rows)

    def _drawn(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        # as it is: a folder may be called "[red]", which would be markup
        table = Table(title=Text(self.title, style="bold"), title_justify="left")
        for number, title in enumerate(self._columns):
            heading = Text(_broken(title))
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in self._rows:
            table.add_row(*map(Text, row))
        return table


def _broken(title: str) -> str:
    """In lines, so that the numbers below need no more room than they have digits."""
    lines = [""]
    # a dot before a digit belongs to a number
    for word in re.split(r"(?<= )|(?<=[.,/])(?=[A-Za-z])", title):
        if lines[-1] and len(lines[-1] + word.rstrip()) > _TITLE:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def _html(cells: Sequence[str], tag: str) -> str:
    found = []
    for number, cell in enumerate(cells):
        side = "right" if number else "left"
        found.append(f"<{tag} style='text-align:{side}'>{html.escape(cell)}</{tag}>")
    return f"<tr>{''.join(found)}</tr>"
