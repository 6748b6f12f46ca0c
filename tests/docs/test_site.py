"""The build of the documentation stops at every fault, on a small project with its settings."""

import base64
import json
import logging
import re

import pytest
import yaml
from doc_pages import ROOT

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000a49444154789c6300010000050001"
    )
).decode()
SOURCE = '''
"""A package."""

from small._parts import Described, Shared, Undescribed, double, {names}

__all__ = ["Described", "Shared", "Undescribed", "double", {exports}]
'''
PARTS = '''
class Described:
    """A class.

    Attributes:
        size: how large it is.
    """

    size: int
    _hidden: int

    def grow(self) -> None:
        """Grow."""


class Shared:
    """Exported twice and described once; see [`small.double`][]."""


class Undescribed:
    """A class."""

    width: int

    def shrink(self):
        pass


def double(x: float) -> float:
    """Twice x.

    Args:
        x: any number.
    """
    return 2 * x


def silent() -> None:
    pass


def homeless() -> None:
    """On no page."""


def wrong(x: float) -> None:
    """Its docstring lies.

    Args:
        y: not an argument.
    """
'''
ROOM = '''
"""A package inside of a package."""

__all__ = ["{name}"]


def {name}() -> None:
    """On no page."""
'''
PAGE = """# Small

[A section](#links), [a page](inner/page.md#there), ![a picture](../experiments/picture.png),
[a recipe](../experiments/recipe.py), [a notebook](../notebooks/01_first.ipynb), [`small.double`][].

## Links

::: small.Described
::: small.Shared
::: small.double
"""
FAULTS = """
[gone](gone.md), [no anchor](inner/page.md#nowhere), [`small.nothing`][],
[file](../experiments/x.py)

## Open {#small.open}

::: small.silent
::: small.Undescribed
::: small.wrong
"""
NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [
        {
            "cell_type": "markdown",
            "metadata": {},
            "source": [
                "# First\n",
                "[home](../docs/index.md)\n",
                "$z^2$ of `$5`, or $5 and $6,\n\n$$z = f(z)$$",
            ],
        },
        {
            "cell_type": "code",
            "metadata": {},
            "execution_count": 1,
            "source": "plot()",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["radius \x1b[1m0.9\x1b[0m\n"]},
                {"output_type": "display_data", "metadata": {}, "data": {"image/png": PNG}},
            ],
        },
    ],
}


def build(folder, page, names, monkeypatch, parts=PARTS):
    """Build the small project with the settings of the real one; return what it warned of."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    files = {
        "src/small/__init__.py": SOURCE.format(
            names=", ".join(names), exports=", ".join(f'"{name}"' for name in names)
        ),
        "src/small/_parts.py": parts,
        "src/small/room/__init__.py": ROOM.format(name="inside"),
        "src/small/open/__init__.py": ROOM.format(name="outside"),
        "docs/index.md": page,
        "docs/inner/page.md": "# Page\n\n## There\n\n[back](../index.md#links)\n",
        "docs/style.css": "",
        "experiments/recipe.py": "",
        "notebooks/01_first.ipynb": json.dumps(NOTEBOOK),
        "CHANGELOG.md": "# Changelog\n\n[home](docs/index.md)\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "experiments" / "picture.png").write_bytes(base64.b64decode(PNG))
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    settings["hooks"] = [str(ROOT / hook) for hook in settings["hooks"]]
    settings["nav"] = ["index.md", "inner/page.md", {"Notebooks": []}, "CHANGELOG.md"]
    del settings["watch"]
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(settings))

    warnings = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("mkdocs").addHandler(handler)
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    try:
        build(load_config(str(folder / "mkdocs.yml")))
        assert not warnings
    except Abort:
        assert warnings
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    return warnings


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    parts = PARTS.replace("def shrink(self):", 'def shrink(self):\n        """Shrink."""')
    parts = parts.replace("    width: int\n", "")
    page = f"{PAGE}\n::: small.homeless\n::: small.Undescribed\n"
    with pytest.MonkeyPatch.context() as patch:
        warnings = build(folder, page, ["homeless"], patch, parts)
    assert warnings == []
    return folder / "site"


@pytest.fixture(scope="module")
def warnings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    with pytest.MonkeyPatch.context() as patch:
        return build(folder, PAGE + FAULTS, ["silent", "homeless", "wrong"], patch)


def test_files_of_the_repository_are_part_of_the_site(sound):
    page = (sound / "index.html").read_text()
    for link in ("experiments/picture.png", "experiments/recipe.py", "notebooks/01_first.html"):
        assert f'"{link}"' in page
        assert (sound / link).is_file()
    assert '"index.html"' in (sound / "CHANGELOG.html").read_text()


def test_a_notebook_is_a_page_with_its_outputs(sound):
    page = (sound / "notebooks" / "01_first.html").read_text()
    assert '<h1 id="first">First' in page
    assert "radius 0.9\n" in page
    assert '"01_first_1_1.png"' in page
    assert (sound / "notebooks" / "01_first_1_1.png").read_bytes() == base64.b64decode(PNG)
    assert '"../index.html"' in page


def test_formulas_are_mathml_and_dollars_in_code_are_dollars(sound):
    page = (sound / "notebooks" / "01_first.html").read_text()
    assert re.search(r"<math [^>]*inline[^>]*><mrow><msup><mi>z</mi><mn>2</mn></msup>", page)
    assert re.search(r'<div class="formula">\s*<math [^>]*display="block"', page)
    assert "<code>$5</code>" in page
    assert "or $5 and $6," in page


def test_pages_load_nothing_from_elsewhere(sound):
    for page in sound.rglob("*.html"):
        assert loaded_from_elsewhere(page.read_text()) == []


def loaded_from_elsewhere(html):
    """The tags that make a browser ask another host."""
    tags = re.findall(r"<(?:link|script|img|iframe)\b[^>]*>", html)
    return [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)]


@pytest.mark.parametrize(
    "tag", ['<link rel="stylesheet" href="https://cdn/x.css">', "<script src=//cdn/x.js>"]
)
def test_what_is_loaded_from_elsewhere_is_seen(tag):
    assert loaded_from_elsewhere(f"<p>text</p>{tag}") == [tag]


FOUND = {
    "link_to_a_page": "link 'gone.md', but the target is not found",
    "link_to_a_file": "'../experiments/x.py'",
    "anchor": "'inner/page.md#nowhere', but the doc 'inner/page.md' does not contain",
    "cross_reference": "Could not find cross-reference target 'small.nothing'",
    "docstring_of_a_function": "small.silent has no docstring.",
    "docstring_of_a_method": "small.Undescribed.shrink has no docstring.",
    "docstring_of_an_attribute": "small.Undescribed.width has no docstring.",
    "name_on_no_page": "small.homeless is on no page of the API reference",
    "name_of_a_public_package": "small.open.outside is on no page of the API reference",
    "argument": "Parameter 'y' does not appear in the function signature",
    "type_of_the_argument": "No type or annotation for parameter 'y'",
}


@pytest.mark.parametrize("fault", FOUND)
def test_a_planted_fault_stops_the_build(fault, warnings):
    assert len([warning for warning in warnings if FOUND[fault] in warning]) == 1, warnings


def test_the_planted_faults_are_all_that_is_found(warnings):
    assert len(warnings) == len(FOUND), warnings
