"""Every exported name exists and says what it is."""

import importlib
import inspect
import pkgutil

import pytest

import deqjax

PACKAGES = ["deqjax"] + [
    info.name for info in pkgutil.walk_packages(deqjax.__path__, "deqjax.") if info.ispkg
]


def is_documented(value):
    text = value.__doc__ or ""
    # dataclasses and named tuples without a docstring get their signature for one
    return bool(text.strip()) and not text.startswith(f"{value.__name__}(")


def undocumented(package):
    values = {name: getattr(package, name) for name in package.__all__}
    # aliases have no docstring of their own
    return [
        name
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value))
        and not is_documented(value)
    ]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_export_exists_and_is_documented(name):
    package = importlib.import_module(name)
    assert package.__doc__
    assert undocumented(package) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_no_export_is_listed_twice(name):
    exported = importlib.import_module(name).__all__
    assert len(set(exported)) == len(exported)


def test_the_core_exports_what_the_design_names():
    names = {"fixed_point", "solvers", "adjoints", "Status", "Solution", "Stats", "backward_probe"}
    assert names | {"jacobian_penalty", "spectral_radius", "spectral_norm"} <= set(deqjax.__all__)
