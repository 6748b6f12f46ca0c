"""Each part of the package needs what its extra brings and no more, and names the extra if not."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import deqjax
from deqjax._extras import MODULES, MissingExtraError, needs

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# where the module has not the distribution's name
MODULE_OF = {
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "tensorflow-datasets": "tensorflow_datasets",
}
OF_FLAX = {"optax", "orbax", "rich"}  # which comes with them

# In order: what is not installed at all is hidden, then one extra after the other appears.
CHILD = """
import contextlib, importlib, io, json, sys

hidden = set(json.loads(sys.argv[1]))
for module in hidden:
    sys.modules[module] = None

def imported(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return str(error)
    return "imported"

def appear(modules):
    for module in hidden.intersection(modules):
        del sys.modules[module]

found = {}
for stage, (modules, names) in json.loads(sys.argv[2]).items():
    appear(modules)
    for name in names:
        found[f"{stage}: {name}"] = imported(name)
    if stage == "core":
        import jax.numpy as jnp
        import deqjax, deqjax.models
        from flax import nnx
        from deqjax.__main__ import main
        found["value"] = float(deqjax.fixed_point(jnp.cos, jnp.zeros((1, 1))).value[0, 0])
        shape = deqjax.models.RecallShape(tokens=3, width=4)
        model = deqjax.models.RecallReasoner(shape, rngs=nnx.Rngs(0))
        found["model"] = model(jnp.ones((1, 5), jnp.int32)).states.shape
        try:
            deqjax.models.MDEQShape(channels=(8, 0))
        except ImportError as error:
            found["unchecked"] = str(error)
        try:
            deqjax.solvers.jaxopt(jnp.cos, jnp.zeros((1, 1)), tol=1e-3, max_steps=3)
        except ImportError as error:
            found["jaxopt"] = str(error)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            found["status"] = main()
        found["command"] = said.getvalue()
print(json.dumps(found))
"""
CORE = (
    "deqjax",
    "deqjax.solvers",
    "deqjax.adjoints",
    "deqjax.diagnostics",
    "deqjax.jacobian",
    "deqjax.nn",
    "deqjax.linen",
    "deqjax.models",
)
TRAIN = (
    "deqjax.data",
    "deqjax.training",
    "deqjax.convert",
    "deqjax.cli",
    "deqjax.tasks.language",
    "deqjax.tasks.reasoning",
    "deqjax.tasks.vision",
)
STAGES = {
    "core": ((), (*CORE, "deqjax.plot", *TRAIN)),
    "plot": ((*MODULES["plot"], "PIL"), ("deqjax.plot",)),  # which comes with it
    "train": (MODULES["train"], TRAIN),
}


def module_of(requirement):
    name = re.split(r"[<>=\[; ]", requirement)[0]
    return MODULE_OF.get(name, name)


@pytest.fixture(scope="module")
def found():
    """What a process says that has the core's packages, then those of one extra more at a time."""
    hidden = set().union(*MODULES.values()) - OF_FLAX
    result = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(sorted(hidden)), json.dumps(STAGES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_core_solves_and_builds_models_without_an_extra(found):
    assert {found[f"core: {name}"] for name in CORE} == {"imported"}
    assert found["value"] == pytest.approx(0.739085, abs=1e-3)
    assert found["model"] == [1, 5, 4]


def test_sizes_that_cannot_be_checked_are_not_taken(found):
    assert found["unchecked"] == (
        "the check of sizes and options needs pydantic, which is not installed: "
        "pip install 'deqjax[train]'."
    )


@pytest.mark.parametrize("name", TRAIN)
def test_what_trains_names_its_extra(name, found):
    assert re.fullmatch(
        r"(deqjax\.\w+|the command line of deqjax) needs \w+, which is not installed: "
        r"pip install 'deqjax\[train\]'\.",
        found[f"core: {name}"],
    )
    assert found[f"train: {name}"] == "imported"


def test_pictures_name_their_extra(found):
    assert found["core: deqjax.plot"] == (
        "deqjax.plot needs matplotlib, which is not installed: pip install 'deqjax[plot]'."
    )
    assert found["plot: deqjax.plot"] == "imported"


def test_jaxopt_names_its_extra(found):
    assert found["jaxopt"] == (
        "deqjax.solvers.jaxopt needs jaxopt, which is not installed: pip install 'deqjax[jaxopt]'."
    )


def test_the_command_says_one_sentence_and_fails(found):
    assert found["status"] == 1
    assert found["command"] == (
        "deqjax: error: the command line of deqjax needs tyro, which is not installed: "
        "pip install 'deqjax[train]'.\n"
    )
    assert PROJECT["scripts"] == {"deqjax": "deqjax.__main__:main"}


@pytest.mark.parametrize("extra", MODULES)
def test_the_modules_are_those_of_the_project_file(extra):
    own = [each for each in EXTRAS[extra] if not each.startswith("deqjax[")]
    assert sorted(map(module_of, own)) == sorted(MODULES[extra])


def test_the_core_needs_little():
    assert [module_of(each) for each in PROJECT["dependencies"]] == [
        "jax",
        "flax",
        "numpy",
        "annotated-types",
    ]


def test_every_sentence_names_an_extra_that_there_is():
    sources = "".join(file.read_text() for file in Path(deqjax.__file__).parent.rglob("*.py"))
    named = re.findall(r"pip install ([^)`.\s]*)", sources)
    assert len(named) > 3
    for each in named:
        match = re.fullmatch(r"'deqjax\[(.*)\]'", each)
        assert match, each
        assert match[1] in EXTRAS or match[1] == "{extra}"


class RefusedError(Exception):
    pass


def test_the_sentence_comes_as_the_error_that_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    sentence = r"^this needs torch, .* 'deqjax\[torch\]'\.$"
    with (
        pytest.raises(RefusedError, match=sentence) as caught,
        needs("torch", "this", RefusedError),
    ):
        importlib.import_module("torch")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'helper'", name="helper"),
        ModuleNotFoundError("no name is given"),
        ImportError("cannot import name 'tanh' from 'torch'", name="torch"),
        OSError("libtorch.so: cannot open shared object file"),
        MissingExtraError("deqjax.plot needs matplotlib.", name="matplotlib"),
    ],
)
def test_another_error_stays_as_it_is(error):
    with pytest.raises(type(error)) as caught, needs("torch", "this", RefusedError):
        raise error
    assert caught.value is error
