"""What a checkpoint says of itself, sealed with a checksum of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqjax.training.checkpoints._damage import FAILURES, check_readable, damaged, summary
from deqjax.training.checkpoints._digests import digest_of_json
from deqjax.training.checkpoints._orbax_manager import META


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as it is stored; its "step" is the number that names the step's folder."""
    return {"content": content, "sha256": digest_of_json(content)}


def read_content(folder: Path) -> dict[str, Any]:
    """The content that a step's folder holds.

    Raises:
        DamagedCheckpointError: it is not what was saved there.
        CheckpointError: it cannot be read now.
    """
    try:
        found = json.loads((folder / META / "metadata").read_text())
        content: dict[str, Any] = found["content"]
        if found["sha256"] != digest_of_json(content) or str(content["step"]) != folder.name:
            raise damaged(folder, "its metadata are not those that were saved with it")
    except (*FAILURES, TypeError) as error:
        check_readable(folder, error)
        raise damaged(folder, summary(error)) from error
    return content
