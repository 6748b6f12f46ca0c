"""What the package's page on an index will show, and where its facts are written."""

import importlib.metadata
import re
import runpy
import sys
import tomllib
import types

import pytest
import yaml

import deqjax
from readme import README

ROOT = README.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ADDRESS = "https://host.example/owner/deqjax"


@pytest.fixture
def build_hook(monkeypatch):
    """What hatch_build.py defines; hatchling itself is not needed for it."""
    interface = types.SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    return runpy.run_path(str(ROOT / "hatch_build.py"))


def described(build_hook, repository):
    hook = build_hook["Readme"]()
    hook.root, hook.config = str(ROOT), {"repository": repository}
    metadata = {"version": "1.2.3"}
    hook.update(metadata)
    return metadata


def test_the_readme_of_an_index_leads_into_the_repository(build_hook):
    metadata = described(build_hook, ADDRESS)
    text = metadata["readme"]["text"]
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    inside = [each for each in targets if each.startswith(ADDRESS)]
    assert len(inside) > 10
    for each in inside:
        kind, tag, path = each.removeprefix(f"{ADDRESS}/").split("/", 2)
        assert (ROOT / path.partition("#")[0]).exists()
        assert (kind, tag) == ("raw" if path.endswith(".png") else "blob", "v1.2.3")
    assert all(re.match(r"[a-z]+:|#", each) for each in targets)
    assert metadata["urls"]["Source"] == ADDRESS
    assert text.replace(f"{ADDRESS}/blob/v1.2.3/", "").replace(f"{ADDRESS}/raw/v1.2.3/", "") == (
        README.read_text()
    )


def test_without_an_address_links_stay(build_hook):
    assert described(build_hook, "") == {
        "version": "1.2.3",
        "urls": {},
        "readme": {"content-type": "text/markdown", "text": README.read_text()},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](docs/b.md#c)", "[a](R/blob/v1/docs/b.md#c)"),
        ("[![a](b.png)](c.md)", "[![a](R/raw/v1/b.png)](R/blob/v1/c.md)"),
        ('<source srcset="dark.svg"><img src="b.png">', None),
        ("[a](https://other.example/b.png) [c](#d) [e](mailto:f)", "same"),
        ("```python\nf[0](x)\n```\n", "same"),
        ("  ```\n  [a](b)\n  ```\n[c](d)", "  ```\n  [a](b)\n  ```\n[c](R/blob/v1/d)"),
    ],
)
def test_links_of_every_kind(text, expected, build_hook):
    if expected is None:
        expected = '<source srcset="R/raw/v1/dark.svg"><img src="R/raw/v1/b.png">'
    assert build_hook["linked"](text, "R", "v1") == (text if expected == "same" else expected)


def test_the_version_is_written_once():
    version = PYPROJECT["project"]["version"]
    assert deqjax.__version__ == importlib.metadata.version("deqjax") == version
    places = [*(ROOT / "src").rglob("*.py"), ROOT / "CITATION.cff", ROOT / ".ci" / "release"]
    assert [file for file in places if version in file.read_text()] == []


def test_the_citation_can_be_read():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == PYPROJECT["project"]["name"]
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert citation["authors"]
    assert citation["message"]
    arxiv = {each["value"] for part in citation["references"] for each in part["identifiers"]}
    assert "arXiv:2106.14342" in arxiv


def test_the_source_distribution_has_all_that_its_tests_read():
    included = set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    here = {"src", "tests", "docs", "experiments", "notebooks", ".ci"}
    files = {"mkdocs.yml", "hatch_build.py", "CITATION.cff", "README.md", "LICENSE"}
    assert here | files | {"CHANGELOG.md", "CONTRIBUTING.md"} <= {e.strip("/") for e in included}
