"""Examples in docstrings run and print what they say; references are written in Markdown."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import deqjax

SOURCE = Path(deqjax.__file__).parent
# Public functions whose use is not evident from the signature.
WITH_EXAMPLE = {
    "deqjax.fixed_point",
    "deqjax.jacobian_penalty",
    "deqjax.spectral_radius",
    "deqjax.spectral_norm",
    "deqjax.depth_sweep",
    "deqjax.check_gradient",
    "deqjax.backward_probe",
    "deqjax.diagnostics.jacobian_spectrum",
    *(f"deqjax.solvers.{name}" for name in ("anderson", "picard", "broyden", "newton_krylov")),
    *(f"deqjax.solvers.{name}" for name in ("reversible", "gmres", "jaxopt")),
    *(f"deqjax.adjoints.{name}" for name in ("implicit", "jacobian_free", "neumann", "phantom")),
    *(f"deqjax.adjoints.{name}" for name in ("shine", "reversible", "unrolled")),
    *(f"deqjax.nn.{name}" for name in ("DEQ", "freeze", "DropoutMask", "Weight")),
    "deqjax.linen.DEQ",
}


MODULES = [
    ".".join(("deqjax", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>>" in path.read_text()
]


def examples_of(name):
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said = []
    for test in examples_of(name):
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
    assert runner.tries > 0


@pytest.mark.parametrize("path", sorted(WITH_EXAMPLE))
def test_main_functions_have_an_example(path):
    package, name = path.rsplit(".", 1)
    text = getattr(importlib.import_module(package), name).__doc__
    assert re.search(r"^ *Examples:\n +>>> ", text, re.MULTILINE)
    assert "doctest: +SKIP" not in text


def test_references_are_written_as_the_pages_read_them():
    for path in SOURCE.rglob("*.py"):
        assert not re.search(r":(?:class|func|meth|mod|attr|exc|data):`", path.read_text()), path
