"""Fails a strict build if a public name has no docstring or no place in the API pages.

Public is what the ``__all__`` of a package names that has a heading on an API page, as in
``# small {#small}``, and of one that lies in no other; further packages are rooms for the modules
around them. Of a public class it is the methods and attributes that have no underscore in front. An
attribute may be described in its class's "Attributes" section.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.hooks.public_names")  # below "mkdocs": strict builds count it
ANCHOR = re.compile(r'\bid="([\w.]+)"')
SPECIAL = {"__call__"}  # of these methods, the only one with arguments of its own
NOT_OURS = {"model_config"}  # pydantic's

_anchors: set[str] = set()


def on_pre_build(config: MkDocsConfig) -> None:
    """Forget the pages of an earlier build."""
    _anchors.clear()


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Note what this page describes."""
    _anchors.update(ANCHOR.findall(html))
    return html


def on_env(env: object, config: MkDocsConfig, files: Files) -> None:
    """Say what is missing, once all pages are rendered."""
    source = Path(config.docs_dir).parent / "src"
    packages = [path.parent.name for path in source.glob("*/__init__.py")]
    for sentence in faults(source, packages, _anchors):
        LOG.warning(sentence)


def faults(source: Path, packages: list[str], anchors: set[str]) -> Iterator[str]:
    """One sentence for each public name that is not described."""
    for package in packages:
        loaded = griffe.load(package, search_paths=[source], docstring_parser="google")
        exports = dict(_exports(loaded, anchors | {package}))
        # a name that several packages export is described once, under any of its paths
        described = {found.path for path, found in exports.items() if path in anchors}
        for path, found in exports.items():
            if not found.has_docstring:
                yield f"{path} has no docstring."
            if not found.is_module and found.path not in described:
                yield f"{path} is on no page of the API reference: add '::: {path}' to one."
            if found.is_class:
                yield from (f"{path}.{name} has no docstring." for name in undocumented(found))


def _exports(module: griffe.Object, public: set[str]) -> Iterator[tuple[str, griffe.Object]]:
    """Public path -> what is defined there or elsewhere."""
    for export in (module.exports or ()) if module.path in public else ():
        member = module.members[str(export)]
        yield f"{module.path}.{export}", member.final_target if member.is_alias else member
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _exports(inner, public)


def undocumented(found: griffe.Object) -> Iterator[str]:
    """The public methods and attributes of a class that nothing describes."""
    described = set(_attributes(found))
    for name, member in found.members.items():
        private = name.startswith("_") and name not in SPECIAL
        if member.is_alias or private or name in NOT_OURS:
            continue
        if not member.has_docstring and not (member.is_attribute and name in described):
            yield name


def _attributes(found: griffe.Object) -> Iterator[str]:
    if found.docstring is not None:
        for section in found.docstring.parsed:
            if section.kind in (
                griffe.DocstringSectionKind.attributes,
                griffe.DocstringSectionKind.parameters,
            ):
                yield from (item.name for item in section.value)
