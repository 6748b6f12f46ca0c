"""The package's page on an index: the README, with links that lead into the repository from there.

An index renders the README alone, where a link to ``docs/guides/solvers.md`` leads nowhere. Hatch
runs this for every wheel and sdist. The address is in pyproject.toml; while there is none, the
links stay as they are, and `.ci/release` does not publish.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_FENCE = re.compile(r"^( *)(`{3,})[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
# [text](here) in Markdown, and src="here" in HTML; not what has a scheme, nor a place on the page
_LINK = re.compile(r"""(?P<before>\]\(|\b(?:src|srcset|href)=")(?![a-z]+:|#)(?P<path>[^)\s"]+)""")
_PICTURES = (".png", ".svg", ".jpg", ".gif", ".webp")


class Readme(MetadataHookInterface):
    """The README as the description, and the repository's address."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Give the project what pyproject.toml declares as dynamic."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = self.config["repository"]
        metadata["urls"] = {}
        if repository:
            tag = f"v{metadata['version']}"
            text = linked(text, repository, tag)
            metadata["urls"] = {
                "Source": repository,
                "Documentation": f"{repository}/blob/{tag}/docs/index.md",
                "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def linked(text: str, repository: str, tag: str) -> str:
    """A page with its relative links and pictures made absolute; code stays as it is.

    Args:
        text: in Markdown.
        repository: its address, as "https://github.com/OWNER/NAME".
        tag: of the commit that the links lead to.
    """
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_in_prose(text[end : fence.start()], repository, tag), fence[0]]
        end = fence.end()
    return "".join([*parts, _in_prose(text[end:], repository, tag)])


def _in_prose(text: str, repository: str, tag: str) -> str:
    def absolute(link: re.Match[str]) -> str:
        picture = link["path"].partition("#")[0].endswith(_PICTURES)
        kind = "raw" if picture else "blob"
        return f"{link['before']}{repository}/{kind}/{tag}/{link['path']}"

    return _LINK.sub(absolute, text)
