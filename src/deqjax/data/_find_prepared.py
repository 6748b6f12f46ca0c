"""Finds data sets that TFDS has prepared, and says how to prepare one that is missing."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from deqjax.data._damaged import damaged, metadata_errors
from deqjax.data._prepare import data_root, manual_folder
from deqjax.data.pipeline import DataError

_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Download(NamedTuple):
    """What TFDS needs to prepare a data set, for the sentence that says what is missing."""

    title: str
    page: str  # where it is found
    size: str
    files: tuple[str, ...]  # to be put into TFDS's manual_dir; none: TFDS downloads by itself


def open_prepared(
    name: str,
    download: Download,
    *,
    directory: str | os.PathLike[str] | None,
    manual_directory: str | os.PathLike[str] | None = None,
) -> Any:
    """The builder of a data set that lies prepared in `directory`, in its newest version there.

    Nothing is downloaded and nothing is prepared: that takes hours for the large sets, and
    TensorFlow.

    Args:
        name: TFDS's name, with "/" and the configuration if it has several.
        download: what to name when the data are missing.
        directory: the folder of all prepared data sets; None is TFDS's own.
        manual_directory: where the downloaded files lie; None is TFDS's own place for them,
            downloads/manual in the folder of all prepared data sets.

    Raises:
        DataError: the data are not there, incomplete or described by damaged files, or in a
            format that needs TensorFlow.
    """
    root = Path(data_root(directory))
    manual = manual_folder(root, manual_directory)
    versions = [path for path in root.glob(f"{name}/*") if _VERSION.fullmatch(path.name)]
    if not versions:
        raise DataError(_how_to_prepare(name, download, root, manual))
    folder = max(versions, key=lambda path: [int(part) for part in path.name.split(".")])
    command = _command(name, download, root, manual)
    if not all((folder / file).is_file() for file in ("dataset_info.json", "features.json")):
        raise DataError(
            f"the data set in {str(folder)!r} is incomplete: delete that folder, and prepare it "
            f"again with `{command}`"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    except metadata_errors() as error:
        raise damaged(folder, error, f"prepare it again with `{command}`") from error
    if builder.info.file_format.value != "array_record":
        raise DataError(
            f"the data set in {str(folder)!r} is stored as {builder.info.file_format.value}, which "
            f"cannot be read without TensorFlow: delete that folder, and prepare it again with "
            f"`{command}`"
        )
    return builder


def _how_to_prepare(name: str, download: Download, root: Path, manual: Path) -> str:
    missing = [file for file in download.files if not (manual / file).is_file()]
    if missing:
        step = (
            f"download {' and '.join(missing)} ({download.size}) from {download.page} into "
            f"{str(manual)!r}, then prepare it once, with TensorFlow"
        )
    elif download.files:
        step = f"prepare it once, with TensorFlow, from the files in {str(manual)!r}"
    else:
        step = (
            f"prepare it once, with TensorFlow, which downloads {download.size} from "
            f"{download.page}"
        )
    return (
        f"{download.title} is not prepared in {str(root)!r}: {step}: "
        "`pip install 'deqjax[prepare]'` and "
        f"`{_command(name, download, root, manual)}`"
    )


def _command(name: str, download: Download, root: Path, manual: Path) -> str:
    # TFDS's own command, `tfds build`, needs Apache Beam as well.
    options = "file_format='array_record'"
    if download.files:
        folder = f"manual_dir={str(manual)!r}"
        options += f", download_config=tfds.download.DownloadConfig({folder})"
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f'tfds.builder({name!r}, data_dir={str(root)!r}).download_and_prepare({options})"'
    )
