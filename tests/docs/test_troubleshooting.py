"""The messages that the troubleshooting page quotes are those of the library.

Each quote is either raised here and compared, or equals one sentence of the source: its fixed parts
are then all the constant parts of that sentence, in their order, and `<...>` stands for the rest.
"""

import ast
import contextlib
import functools
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import deqjax as dq
from deqjax import cli
from deqjax.nn import DEQ
from deqjax.solvers import anderson, newton_krylov
from deqjax.solvers import reversible as coupled
from deqjax.training.report import _run_findings, _solver_findings
from deqjax.training.report._figures import LEAST_RECORDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text()
SOURCES = sorted((ROOT / "src" / "deqjax").rglob("*.py"))
HOLE = "\0"
"""What varies, in a sentence of the source and in a quote."""


@functools.cache
def quotes() -> list[str]:
    """Every message on the page, on one line, `<...>` replaced by the hole."""
    blocks = re.findall(r"^ *```text\n(.*?)^ *```", PAGE, flags=re.MULTILINE | re.DOTALL)
    messages = [each for block in blocks for each in re.split(r"\n\s*\n", block.strip())]
    return [re.sub(r"(<[^<>]*>)+", HOLE, " ".join(each.split())) for each in messages]


class Sentences(ast.NodeVisitor):
    """The strings of a module, what varies in them replaced by the hole."""

    def __init__(self, module: ast.Module) -> None:
        self.found: set[str] = set()
        self._named = {
            target.id: node.value.value
            for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self.visit(module)

    def visit(self, node: ast.AST) -> None:
        text = self._text(node)
        if text is not None:
            self.found.add(re.sub(f"{HOLE}+", HOLE, " ".join(text.split())))
        self.generic_visit(node)

    def _text(self, node: ast.AST) -> str | None:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name) if isinstance(self._named.get(name), str):
                return self._named[name]
            case ast.FormattedValue(value=value):
                return (self._text(value) if isinstance(value, ast.Name) else None) or HOLE
            case ast.JoinedStr(values=values):
                return "".join(self._text(value) or "" for value in values)
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                parts = [self._text(left), self._text(right)]
                if any(part is not None for part in parts):
                    return "".join(HOLE if part is None else part for part in parts)
        return None


@functools.cache  # parsing the whole source takes a second
def sentences() -> frozenset[str]:
    return frozenset().union(*(Sentences(ast.parse(file.read_text())).found for file in SOURCES))


class Normalized(nnx.Module):
    def __init__(self):
        self.mean = nnx.BatchStat(jnp.zeros(4))

    def __call__(self, z, u):
        self.mean[...] = self.mean[...] + 1
        return u


class Cell(nnx.Module):
    def __init__(self):
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, z, u):
        return self.drop(z)


Z = jnp.zeros((3, 4))


def solve(f=lambda z: z, z0=Z, **options):
    return dq.fixed_point(f, z0, **options).value


def hide_module():
    cell = Cell()
    DEQ(lambda z, u: cell(z, u + 1))


def draw_inside():
    rng = np.random.default_rng(0)
    solve(lambda z: z + float(rng.normal()), debug=True)


def second_derivative():
    def gradient(x):
        rule = {"solver": coupled, "adjoint": dq.adjoints.reversible(), "max_steps": 1}
        return jax.grad(lambda x: jnp.sum(solve(lambda z: 0.5 * z + x, **rule)))(x)

    jax.grad(lambda x: jnp.sum(gradient(x)))(Z)


def change_the_sharding():
    mesh = jax.make_mesh((3,), ("data",), devices=jax.devices()[:3])
    places = [NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), (None, "data"))]
    z0 = jax.device_put(Z[:, :3], places[0])
    jax.jit(lambda z0: solve(lambda z: jax.sharding.reshard(z, places[1]), z0))(z0)


RAISED = {
    "sharding": change_the_sharding,
    "forward mode": lambda: jax.jvp(lambda x: solve(lambda z: 0.5 * z + x), (Z,), (Z,)),
    "integer z0": partial(solve, z0=Z.astype(int)),
    "scalar z0": partial(solve, z0=1.0),
    "no leaves": partial(solve, z0={}),
    "empty batch": partial(solve, z0=Z[:0]),
    "batches": partial(solve, z0={"a": Z, "b": Z[:2]}),
    "shape": partial(solve, lambda z: z[:, :2]),
    "dtype": partial(solve, lambda z: z.astype(jnp.bfloat16)),
    "structure": partial(solve, lambda z: (z,)),
    "max_steps 0": partial(solve, max_steps=0),
    "max_steps 2.5": partial(solve, max_steps=2.5),
    "tol negative": partial(solve, tol=-1e-3),
    "tol array": partial(solve, tol=jnp.ones(7)),
    "traced max_steps": lambda: jax.jit(
        lambda n: solve(adjoint=dq.adjoints.unrolled(), max_steps=n)
    )(3),
    "newton unrolled": partial(solve, solver=newton_krylov, adjoint=dq.adjoints.unrolled()),
    "reversible adjoint": partial(solve, adjoint=dq.adjoints.reversible()),
    "second derivative": second_derivative,
    "reversible damping": partial(solve, solver=partial(coupled, damping=1.0)),
    "probe": partial(solve, probe=dq.backward_probe(2)),
    "stop": partial(solve, solver=partial(anderson, stop="rel")),
    "history": partial(solve, solver=partial(anderson, history=0)),
    "solver's name": partial(solve, solver="anderson"),
    "called solver": lambda: solve(solver=anderson(lambda z: z, Z, tol=1e-3, max_steps=3)),
    "adjoint not called": partial(solve, adjoint=dq.adjoints.implicit),
    "statuses": lambda: dq.Status(jnp.ones(2)),
    "misspelled": partial(solve, solver=partial(anderson, histroy=3)),
    "random f": draw_inside,
    "coupled rows": partial(solve, lambda z: z - z[::-1] + 1, debug=True),
    "coupled graphs": partial(solve, lambda z: z - z[::-1] + 1, segments=[0, 0, 1], debug=True),
    "ids of the run": lambda: jax.jit(lambda ids: solve(segments=ids))(jnp.zeros(3, int)),
    "no aux": partial(solve, has_aux=True),
    "cell state": lambda: DEQ(Normalized())(Z),
    "hidden module": hide_module,
    "NNX trace": lambda: dq.fixed_point(Cell(), Z, Z),
}
COMMANDS = {
    "option": ["train", "experiments/stdlib_lm.py", "--penalty.wieght", "0"],
    "value": ["train", "experiments/stdlib_lm.py", "--task.network.solver.max-steps", "0"],
    "no file": ["train"],
}


@functools.cache
def raised(name: str) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011  the message is what is tested
        RAISED[name]()
    return str(caught.value)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each command prints as its error."""
    folder, found = tmp_path_factory.mktemp("here"), {}
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for name, arguments in COMMANDS.items():
        with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()) as printed:
            assert cli.main(arguments) in (1, 2)
        found[name] = printed.getvalue()
    return found


def quote_of(message: str) -> str | None:
    """The quote on the page that reads like this message."""
    for quote in quotes():
        pattern = ".+".join(map(re.escape, quote.split(HOLE)))
        if re.fullmatch(pattern, " ".join(message.split())):
            return quote
    return None


@pytest.mark.parametrize("name", RAISED)
def test_the_page_quotes_what_is_raised(name):
    assert quote_of(raised(name)), raised(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_quotes_what_a_command_says(name, said):
    assert quote_of(said[name]), said[name]


def test_every_quote_is_a_message_of_the_library(said):
    proven = {quote_of(message) for message in [*map(raised, RAISED), *said.values()]}
    unknown = [quote for quote in quotes() if quote not in proven | sentences()]
    assert not unknown, "\n".join(unknown).replace(HOLE, "<...>")


@pytest.mark.parametrize("status", dq.Status)
def test_statuses_are_told_of_in_words(status):
    assert status is dq.Status.CONVERGED or status.sentence in quotes()


def test_there_are_quotes():
    assert len(quotes()) > 80


def rows() -> Iterator[tuple[list[str], str]]:
    """Names of findings, and when they are seen."""
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            names, seen, _ = line.strip("| ").split(" | ")
            yield re.findall(r"`([^`]+)`", names), seen


def test_all_findings_are_on_the_page():
    named = set()
    for module in (_run_findings, _solver_findings):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            match node:
                case ast.Call(func=ast.Name(id="Finding"), args=[ast.Constant(value=name), *_]):
                    named.add(name)
    directions = {"forward-steps-grow", "backward-steps-grow"}  # an f-string in the source
    assert {name for names, _ in rows() for name in names} == named | directions


@pytest.mark.parametrize(
    ("name", "threshold"),
    {
        "no-checkpoint": f"{_run_findings.OVERDUE} intervals",
        "forward-diverges": f"{_solver_findings.DIVERGED:.1%}",
        "backward-diverges": f"{_solver_findings.DIVERGED:.1%}",
        "step-limit": f"{_solver_findings.UNFINISHED:.0%}",
        "backward-step-limit": f"{_solver_findings.UNFINISHED:.0%}",
        "precision-lost": f"{_solver_findings.PRECISION_LOST:.0%}",
        "residual-grows": f"{_solver_findings.RESIDUAL_GROWTH:g} times",
        "forward-steps-grow": f"{_solver_findings.STEPS_GROWTH:g} times",
        "no-contraction": f"of {_solver_findings.RADIUS:g}",
        "validation-rises": f"{_run_findings.OVERFITTED - 1:.0%}",
        "waits-for-data": f"{_run_findings.WAITING:.0%}",
        "slower": f"{_run_findings.SLOWER:g} of",
        "memory-grows": (
            f"{_run_findings.MEMORY_GROWTH:g} times and {_run_findings.MEMORY_GIB:g} GiB"
        ),
    }.items(),
)
def test_thresholds_of_findings(name, threshold):
    (seen,) = (seen for names, seen in rows() if name in names)
    assert threshold in seen


def test_records_that_a_trend_needs():
    assert f"of which there must be {LEAST_RECORDS}." in " ".join(PAGE.split())
