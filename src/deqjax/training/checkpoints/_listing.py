"""The list of a checkpoint's files with their checksums, and reading them through."""

import json
import os
from pathlib import Path

from deqjax.training._workdir import write_atomically
from deqjax.training.checkpoints._damage import FAILURES, check_readable, damaged, summary
from deqjax.training.checkpoints._digests import digest_of_json, digests_of_files

FILES = "files.json"  # written after all others, and absent after a crash


def verify_files(folder: Path) -> None:
    """Compare all files of a step with their list, if there is one.

    Raises:
        DamagedCheckpointError: a file is missing or has another checksum.
    """
    file = folder / FILES
    try:
        if not file.exists():
            return
        listed = json.loads(file.read_text())
        if listed["sha256"] != digest_of_json(listed["files"]):
            raise damaged(folder, f"{FILES} has another checksum")
        there, found = listed["files"], digests_of_files(folder, leave_out=[FILES])
    except (*FAILURES, TypeError) as error:
        check_readable(folder, error)
        raise damaged(folder, f"{FILES}: {summary(error)}") from error
    for name in sorted(there.keys() | found.keys()):
        if name not in found:
            raise damaged(folder, f"{name} is missing")
        if name in there and there[name] != found[name]:
            raise damaged(folder, f"{name} has another checksum")


def list_files(folder: Path) -> None:
    """Write the list of a step's files."""
    try:
        files = digests_of_files(folder)
        listed = {"files": files, "sha256": digest_of_json(files)}
        write_atomically(folder / FILES, json.dumps(listed, indent=1).encode())
    except OSError:
        # a full disk, or the step is deleted already: its leaves have checksums without the list
        return


def read_through(folder: Path) -> None:
    """Read every byte of the arrays, one after the other.

    Orbax reads all at once, and if one read fails then the threads of the others print pages of
    tracebacks that nothing can catch.
    """
    import tensorstore

    file = {"driver": "file", "path": f"{folder}{os.sep}"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": file}).result()
    keys = store.list().result()
    if not keys:
        raise FileNotFoundError(f"no arrays in {folder}")
    for key in keys:
        store.read(key).result()
