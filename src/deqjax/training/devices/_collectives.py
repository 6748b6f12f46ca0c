"""Which collectives a compiled program has, and which of them are inside its loops."""

import re
from typing import NamedTuple

_NAMES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_HEADER = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf" = (?P<shape>.*?) (?P<name>{_NAMES})(?:-start)?\(")
_CALLED = re.compile(
    r"(?P<kind>body|condition|calls|to_apply|true_computation|false_computation)=%?(?P<name>[\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Collective(NamedTuple):
    """A collective of a program.

    Attributes:
        name: such as "all-gather".
        shape: of its result, as XLA writes it, such as ``f32[16,8]``.
        looped: whether a loop repeats it.
    """

    name: str
    shape: str
    looped: bool


def collectives(text: str) -> list[Collective]:
    """Of a compiled program's text, ``compiled.as_text()``."""
    own: dict[str, list[tuple[str, str]]] = {}
    called: dict[str, list[tuple[bool, str]]] = {}
    entry, place = "", ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            place = header["name"]
            own[place], called[place] = [], []
            entry = place if line.startswith("ENTRY") else entry
        elif place:
            if found := _COLLECTIVE.search(line):
                shape = re.sub(r"\{[^}]*\}|/\*.*?\*/", "", found["shape"])
                own[place].append((found["name"], shape))
            for each in _CALLED.finditer(line):
                called[place].append((each["kind"] in ("body", "condition"), each["name"]))
            for names in _BRANCHES.findall(line):
                called[place] += [(False, name.strip(" %")) for name in names.split(",")]
    result: list[Collective] = []

    def visit(computation: str, looped: bool) -> None:
        result.extend(Collective(*each, looped) for each in own.get(computation, ()))
        for repeats, name in called.get(computation, ()):
            visit(name, looped or repeats)

    visit(entry, False)
    return result
