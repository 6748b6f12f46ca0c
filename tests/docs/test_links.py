"""What the README, the changelog and the documentation link to exists, in the repository itself.

The strict build looks at the documentation's own links; those of the README are looked at here.
"""

import re

import pytest
from doc_pages import README, ROOT, name_of, pages, prose
from markdown.extensions.toc import slugify

from deqjax import cli

LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGES = [*pages(), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]


def anchors(page):
    """The headings of a page, as links name them."""
    text = prose(page)
    named = set(re.findall(r"\{#([\w.-]+)\}", text))
    titles = re.findall(r"^#+ (.*?)(?: \{#.*\})?$", text, re.MULTILINE)
    return named | {slugify(title.replace("`", ""), "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_options_that_are_named_exist(capsys):
    """In a sentence or a table: an option of some command, or of pip, mkdocs and pytest."""
    known = set(re.findall(r"--[\w.-]+", _help(capsys)))
    known |= {"--strict", "--quiet", "--help", "--version", "--tyro-write-completion"}
    for page in pages():
        for code in re.findall(r"`([^`\n]+)`", prose(page)):
            if code.startswith("--"):
                assert set(re.findall(r"(?<![\w-])--[\w.-]+", code)) <= known, (page, code)


def _help(capsys):
    reasoning = ("reasoning/sudoku4.py", "reasoning/prefix_sums.py")
    for file in ("stdlib_lm.py", "vision/digits.py", *reasoning, "own/spirals.py"):
        assert cli.main(["train", str(ROOT / "experiments" / file), "--help"]) == 0
    for command in (
        "prepare",
        "estimate",
        "sweep",
        "runs",
        "compare",
        "evaluate",
        "inspect",
        "generate",
        "convert",
    ):
        assert cli.main([command, "--help"]) == 0
    return capsys.readouterr().out


def test_the_readme_names_its_options(capsys):
    text = README.read_text()
    assert "--help" in text
