"""The TFDS builder of a corpus that every Python carries: its own standard library."""

import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from deqjax.data.pipeline import DataError

# Installed packages are no part of CPython. Tests hold test data: broken encodings, generated
# tables, copies of other files.
_EXCLUDED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
)
# Written when this one interpreter was built: they name the machine's compiler and folders.
_BUILD_PREFIXES = ("_sysconfigdata", "config-")
# The one part of the hash that could be chosen: with it the splits hold 90, 5 and 5 % of the
# bytes within half a percent, in Python 3.11 and in 3.12.
_SPLIT_SALT = "5"


def standard_library() -> Path:
    """The folder that holds the running Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def corpus_files(root: Path) -> list[str]:
    """The corpus as sorted paths relative to `root`, with "/" between the folders.

    Raises:
        DataError: `root` has no Python source.
    """
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    chosen = [path for path in paths if _belongs(path) and _is_text(root / path)]
    if not chosen:
        raise DataError(
            f"no Python source under {str(root)!r}: the corpus needs a Python whose standard "
            "library lies on disk as .py files"
        )
    return chosen


def split_of(path: str) -> str:
    """The split of a file, from its path alone: it never depends on which other files exist."""
    digest = hashlib.sha256(f"{_SPLIT_SALT}/{path}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < 0.05:
        return "validation"
    return "test" if position < 0.10 else "train"


def _belongs(path: str) -> bool:
    folders = path.split("/")[:-1]
    return not _EXCLUDED_FOLDERS.intersection(folders) and not path.startswith(_BUILD_PREFIXES)


def _is_text(file: Path) -> bool:
    content = file.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return len(content) > 0


class StdlibCorpus(tfds.core.GeneratorBasedBuilder):
    """The running Python's standard library, one example a file: its path and its bytes.

    Splits by file into train, validation and test, about 90, 5 and 5 % of the bytes. Nothing is
    downloaded. The files differ between Python versions, so the configuration names the version.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  TFDS reads a plain class attribute
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(
            name=f"python_{platform.python_version()}",
            description=f"The standard library of Python {platform.python_version()}.",
        )
    ]

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The Python sources of CPython's standard library, without its tests.",
            homepage="https://docs.python.org/3/library/",
            license="Python Software Foundation License Version 2",
            features=tfds.features.FeaturesDict(
                {"path": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            disable_shuffling=True,  # examples stay in the order of their paths
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing to download
        root = standard_library()
        paths = corpus_files(root)
        return {
            split: self._generate_examples(
                root, [path for path in paths if split_of(path) == split]
            )
            for split in ("train", "validation", "test")
        }

    def _generate_examples(
        self, root: Path, paths: list[str]
    ) -> Iterator[tuple[str, dict[str, str | bytes]]]:
        for path in paths:
            yield path, {"path": path, "text": (root / path).read_bytes()}
