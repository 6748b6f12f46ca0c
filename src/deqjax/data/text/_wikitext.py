"""The TFDS builder of WikiText-103 and WikiText-2, from the archives that hold them.

Merity et al., "Pointer Sentinel Mixture Models", ICLR 2017, arXiv 1609.07843, section 4.3.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import tensorflow_datasets as tfds

from deqjax.data.pipeline import DataError

_FILES = {
    "train": "wiki.train.tokens",
    "validation": "wiki.valid.tokens",
    "test": "wiki.test.tokens",
}
# Where the first author keeps the archives; the address in the paper answers no longer.
_ADDRESS = "https://wikitext.smerity.com"
_BYTES_IN_EXAMPLE = 2**19
# A flipped bit in a zip's directory can also look like encryption or an unknown method
# (RuntimeError), a missing file (KeyError) or an impossible position (OSError, ValueError); text
# that is no UTF-8 is a ValueError too.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    ValueError,
)


class _Edition(NamedTuple):
    title: str
    folder: str  # of the token files, in the archive and beside it
    megabytes: int  # to download

    @property
    def archive(self) -> str:
        return f"{self.folder}-v1.zip"


_EDITIONS = {
    "wikitext103": _Edition("WikiText-103", "wikitext-103", 190),
    "wikitext2": _Edition("WikiText-2", "wikitext-2", 5),
}


class WikiText(tfds.core.GeneratorBasedBuilder):
    """Wikipedia articles as words between spaces, rare ones replaced by <unk>.

    The text is stored exactly as it is in the token files, in examples of whole lines. Once it is
    prepared, the archive is not read again.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  TFDS reads a plain class attribute
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name, description=f"{edition.title}, as words.")
        for name, edition in _EDITIONS.items()
    ]

    def __init__(self, *, config: str, manual_directory: str, data_dir: Any = None) -> None:
        """Names the data set.

        Args:
            config: "wikitext103" or "wikitext2".
            manual_directory: the folder with the archive, or with its token files as `find_source`
                looks for them.
            data_dir: the folder of all prepared data sets.
        """
        self._edition = _EDITIONS[config]
        self._manual_directory = Path(manual_directory)
        super().__init__(data_dir=data_dir, config=config)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Good and featured articles of the English Wikipedia.",
            homepage=_ADDRESS,
            license="Creative Commons Attribution-ShareAlike 3.0",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            disable_shuffling=True,  # examples stay in the order of the text
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # it looks into one folder only, and reports a missing one with a traceback
        source = find_source(self._manual_directory, self._edition)
        return {split: self._generate_examples(source, file) for split, file in _FILES.items()}

    def _generate_examples(self, source: Path, file: str) -> Iterator[tuple[int, dict[str, bytes]]]:
        for number, text in enumerate(_read_chunks(source, file, self._edition)):
            yield number, {"text": text}


def find_source(directory: Path, edition: _Edition) -> Path:
    """The folder with the three token files, or the archive.

    Looks for the edition's own folder in `directory`, for the archive, and for the token files in
    `directory` itself, in this order.

    Raises:
        DataError: there is none of them.
    """
    others = {other.folder for other in _EDITIONS.values()} - {edition.folder}
    folders = [directory / edition.folder, directory]
    complete = [
        folder
        for folder in folders
        # Both editions' files have the same names: another edition's folder is no source.
        if folder.name not in others and all((folder / file).is_file() for file in _FILES.values())
    ]
    archive = directory / edition.archive
    if folders[0] in complete:
        return folders[0]
    if archive.is_file():
        return archive
    if complete:
        return directory
    raise DataError(
        f"there is no {edition.title} in {str(directory)!r}: download "
        f"{_ADDRESS}/{edition.archive} ({edition.megabytes} MB) into that folder, and leave it "
        "zipped or unzip it there"
    )


def _read_chunks(source: Path, file: str, edition: _Edition) -> Iterator[bytes]:
    """A token file in pieces of whole lines.

    Raises:
        DataError: the file is damaged, missing or empty.
    """
    lines: list[bytes] = []
    size = 0
    try:
        with _opened(source, file, edition) as stream:
            for line in stream:
                line.decode()  # refuses what is no UTF-8
                lines.append(line)
                size += len(line)
                if size >= _BYTES_IN_EXAMPLE:
                    yield b"".join(lines)
                    lines, size = [], 0
            if stream.tell() == 0:
                raise EOFError("it has no text")
    except _DAMAGES as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise DataError(
            f"{file} in {str(source)!r} is damaged or cannot be read "
            f"({str(reason) or type(error).__name__}): download {_ADDRESS}/{edition.archive} again"
        ) from error
    if lines:
        yield b"".join(lines)


@contextlib.contextmanager
def _opened(source: Path, file: str, edition: _Edition) -> Iterator[IO[bytes]]:
    if source.is_dir():
        with open(source / file, "rb") as stream:
            yield stream
    else:
        with (
            zipfile.ZipFile(source) as archive,
            archive.open(f"{edition.folder}/{file}") as stream,
        ):
            yield stream
