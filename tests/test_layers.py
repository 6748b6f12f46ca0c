"""The import graph of the source: low layers know nothing of high ones, and there is no cycle."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import deqjax

ROOT = Path(deqjax.__file__).parent

# From low to high; a module may import from its own layer and from those before it.
CORE = (
    ("_extras",),
    ("_core",),
    ("solvers",),
    ("adjoints",),
    ("_slips", "_eager", "_fixed_point", "jacobian"),
    ("diagnostics",),
    ("deqjax",),  # the package's own __init__, which re-exports the core
)
LAYERS = (
    *CORE,
    ("_ranges", "_fields"),
    ("_records", "_scores", "plot"),
    ("nn",),
    ("linen",),
    ("models",),
    ("data",),
    ("convert",),
    ("training",),
    ("tasks",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ALLOWED = {"training": {"deqjax.data.pipeline"}}  # in spite of what is forbidden
PUBLIC_ONLY = {"tasks": {"deqjax.training"}}  # where a user stands: what its __init__ lists, alone
SETTINGS = {"_ranges", "_fields"}  # what declares and checks the fields of a dataclass
ANYWHERE = {"_extras"}  # what says which extra brings a package

TRAINING_ONLY = {"optax", "orbax", "grain", "tensorflow_datasets", "tensorboardX", "matplotlib"}
FORBIDDEN = {
    **{name: TRAINING_ONLY | {"flax"} for layer in CORE for name in layer},
    "nn": TRAINING_ONLY,
    "linen": TRAINING_ONLY,
    "models": TRAINING_ONLY,
    # a converted model is a model: what it is trained on and how is not known here
    "convert": TRAINING_ONLY - {"orbax"} | {"deqjax.data"},
    # the engine knows no model, no data set and no task; of data only what all kinds share
    "training": {"deqjax.models", "deqjax.convert", "deqjax.data"},
    # data knows numbers, not networks: of this package it imports itself and what settings are of
    "data": {"flax", "optax", "orbax", "deqjax"}
    | {f"deqjax.{name}" for name in RANK.keys() - SETTINGS - ANYWHERE - {"data"}},
    # they say what a field allows, not what it is for
    **{name: TRAINING_ONLY | {"jax", "flax", "deqjax"} for name in SETTINGS},
}


def read_sources(root):
    """Module name -> source text."""
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = ("deqjax", *path.relative_to(root).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        sources[name] = path.read_text()
    return sources


def imports(source, modules):
    """The modules that a source imports, anywhere in it; `from package import module` resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are banned"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
    return found


def layer(module):
    """The part of the name that decides the layer: deqjax.solvers._loop -> solvers."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "deqjax"


def is_inside(module, package):
    if package == "deqjax":  # its __init__ alone: every module is inside the package
        return module == package
    return is_within(module, package)


def folder(module, sources):
    """The package that a module is a file of: deqjax.solvers._loop -> deqjax.solvers."""
    inside = any(other.startswith(module + ".") for other in sources)
    return module if inside else module.rpartition(".")[0]


def is_private_to_others(module, target, sources):
    """Whether a target may not be imported here: `_module` is for its folder, those inside, beside.

    Everybody may use `_core`, and others what a package's __init__ lists.
    """
    home, _, name = target.rpartition(".")
    if not name.startswith("_") or target.startswith("deqjax._core"):
        return False
    own = folder(module, sources)
    beside = own == home.rpartition(".")[0]
    return not (is_within(own, home) or beside)


def is_within(package, other):
    return package == other or package.startswith(other + ".")


def is_forbidden(of, target):
    """Whether a layer must not know a module."""
    forbidden = any(is_inside(target, package) for package in FORBIDDEN.get(of, ()))
    return forbidden and target not in ALLOWED.get(of, ())


def violations(sources):
    """One sentence for each import that the layers forbid."""
    found = []
    for module, source in sources.items():
        if layer(module) not in RANK:
            found.append(f"{module} has no place in LAYERS")
            continue
        for target in sorted(imports(source, sources)):
            ours = target.split(".")[0] == "deqjax"
            if ours and RANK.get(layer(target), len(LAYERS)) > RANK[layer(module)]:
                found.append(f"{module} imports {target} from above")
            if ours and is_private_to_others(module, target, sources):
                found.append(f"{module} imports {target}, which is private")
            if is_forbidden(layer(module), target):
                found.append(f"{module} must not know {target}")
            for package in PUBLIC_ONLY.get(layer(module), ()):
                if target.startswith(package + "."):
                    found.append(f"{module} imports {target}, not from {package} itself")
    return found


def import_order(sources):
    """The modules sorted so that each comes after what it imports; raises on a cycle."""
    graph = {
        module: imports(source, sources) & sources.keys() for module, source in sources.items()
    }
    return list(graphlib.TopologicalSorter(graph).static_order())


def test_no_module_imports_upwards():
    assert violations(read_sources(ROOT)) == []


def test_no_modules_import_each_other():
    sources = read_sources(ROOT)
    assert len(import_order(sources)) == len(sources) > 20


@pytest.mark.parametrize(
    ("module", "line", "sentence"),
    [
        ("deqjax.solvers._loop", "from deqjax.adjoints import implicit", "from above"),
        ("deqjax.solvers._loop", "def f():\n    import deqjax.nn", "from above"),
        ("deqjax._core.algebra", "from deqjax import solvers", "from above"),
        ("deqjax.jacobian", "import deqjax", "from above"),
        ("deqjax.adjoints._probe", "from flax import nnx", "must not know flax"),
        ("deqjax.models.new", "from deqjax import data", "from above"),
        ("deqjax.nn._deq", "import optax.losses", "must not know optax.losses"),
        ("deqjax.nn._deq", "from deqjax.training.step import Problem", "from above"),
        ("deqjax.data.text._text", "from deqjax import solvers", "must not know deqjax.solvers"),
        ("deqjax.data.text._text", "import deqjax", "must not know deqjax"),
        ("deqjax.training._run", "from deqjax import data", "must not know deqjax.data"),
        (
            "deqjax.training._run",
            "from deqjax.data.images import ImageSet",
            "must not know deqjax.data.images",
        ),
        ("deqjax.training._run", "from deqjax.models import MDEQ", "must not know deqjax.models"),
        ("deqjax.training._run", "from deqjax.tasks.vision import VisionTask", "from above"),
        ("deqjax.training._run", "import deqjax.convert", "must not know deqjax.convert"),
        ("deqjax.models.new", "from deqjax.tasks import language", "from above"),
        (
            "deqjax.tasks._solver",
            "from deqjax.training.step import Loss",
            "imports deqjax.training.step, not from deqjax.training itself",
        ),
        ("deqjax.novelty", "", "has no place"),
    ],
)
def test_a_planted_import_is_caught(module, line, sentence):
    sources = read_sources(ROOT) | {module: line}
    caught = violations(sources)
    assert len(caught) == 1
    assert caught[0].startswith(module)
    assert sentence in caught[0]


def test_a_task_uses_what_the_engine_lists():
    """A private module of the engine is caught twice: it is private, and it is inside."""
    planted = {"deqjax.tasks.new": "def f():\n    from deqjax.training._run import build"}
    caught = violations(read_sources(ROOT) | planted)
    assert [sentence.rpartition(", ")[2] for sentence in caught] == [
        "which is private",
        "not from deqjax.training itself",
    ]


def test_the_engine_may_use_what_all_kinds_of_data_share():
    planted = {"deqjax.training._run": "from deqjax.data.pipeline import DataError"}
    assert violations(read_sources(ROOT) | planted) == []


def test_a_planted_cycle_is_caught():
    planted = {
        "deqjax.solvers._one": "from deqjax.solvers import _two",
        "deqjax.solvers._two": "def f():\n    from deqjax.solvers._one import x",
    }
    with pytest.raises(graphlib.CycleError):
        import_order(read_sources(ROOT) | planted)


def test_importing_the_package_stays_light():
    heavy = {"flax", "tensorflow_datasets", "matplotlib", "jaxopt", "optax", "orbax", "grain"}
    code = f"import sys, deqjax; print(*sorted({heavy} & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.split() == []
