"""Prepares a TFDS builder on disk: once, quietly, and safely when several processes try at once."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deqjax.data._damaged import damaged, metadata_errors
from deqjax.data.pipeline import DataError


def prepared(
    builder_class: type[Any], *, directory: str | os.PathLike[str] | None = None, **arguments: Any
) -> Any:
    """A builder whose data lie ready in `directory`, in TFDS's array_record format.

    The data are written under a temporary name beside their final place and renamed into it, so
    that a reader never sees half of them and a killed process leaves nothing that looks complete.
    When several processes prepare at once, the first to finish wins and the others read its copy.

    TFDS has a temporary folder of its own, but draws its name from `random`: two processes with
    the same `random.seed` would write into the same one.

    Args:
        builder_class: a `tfds.core.GeneratorBasedBuilder`.
        directory: the folder of all prepared data sets; None is TFDS's own (the environment
            variable TFDS_DATA_DIR, else ~/tensorflow_datasets).
        **arguments: further arguments of the builder, which must give the same configuration and
            the same examples each time a builder is made of them.

    Raises:
        DataError: `directory` cannot be written, and the data are not prepared in it yet.
        DataError: the data in `directory` are incomplete, or the files that describe them damaged.
    """
    root = data_root(directory)
    builder = _open(builder_class, arguments, root)
    if not Path(builder.data_dir).exists():
        _prepare(builder_class, arguments, Path(root), Path(builder.data_dir))
        builder = _open(builder_class, arguments, root)
    if not builder.info.splits:
        raise DataError(
            f"the data set in {str(builder.data_dir)!r} is incomplete: delete that folder, and the "
            "next run prepares it again"
        )
    return builder


def data_root(directory: str | os.PathLike[str] | None) -> str:
    """The folder of all prepared data sets: `directory`, or TFDS's own for None."""
    if directory is not None:
        return os.path.abspath(os.path.expanduser(directory))
    import tensorflow_datasets as tfds

    return os.path.expanduser(str(tfds.core.constants.DATA_DIR))


def manual_folder(
    directory: str | os.PathLike[str] | None, manual_directory: str | os.PathLike[str] | None
) -> Path:
    """Where downloaded files lie: `manual_directory`, or TFDS's own place for them for None."""
    return Path(data_root(manual_directory or Path(data_root(directory), "downloads", "manual")))


def _open(builder_class: type[Any], arguments: dict[str, Any], root: str) -> Any:
    try:
        return builder_class(data_dir=root, **arguments)
    except DataError:
        raise
    except metadata_errors() as error:
        # No builder says where the data lie, but one that finds nothing to read does.
        with tempfile.TemporaryDirectory() as empty:
            found = Path(builder_class(data_dir=empty, **arguments).data_dir)
        folder = Path(root) / found.relative_to(empty)
        raise damaged(folder, error, "the next run prepares it again") from error


def _prepare(builder_class: type[Any], arguments: dict[str, Any], root: Path, target: Path) -> None:
    import tensorflow_datasets as tfds

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=f".{builder_class.name}-", dir=root)
    except OSError as error:
        raise DataError(
            f"the data directory {str(root)!r} cannot be written ({error.strerror}): choose "
            "another one"
        ) from error
    try:
        builder = builder_class(data_dir=scratch, **arguments)
        with _quiet():
            builder.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
        try:
            os.rename(builder.data_dir, target)
        except OSError:
            # A folder cannot be renamed onto one that holds files: another process was first.
            if not target.exists():
                raise
    finally:
        shutil.rmtree(scratch)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's progress bars and its printed messages off the terminal."""
    import tensorflow_datasets as tfds

    bars_were_on = tfds.core.utils.tqdm_utils._active
    tfds.display_progress_bar(enable=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(enable=bars_were_on)
