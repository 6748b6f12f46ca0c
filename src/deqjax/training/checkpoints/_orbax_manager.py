"""Orbax's manager of checkpoints, as one process of a run uses it."""

from pathlib import Path
from typing import Any

import jax

from deqjax.training.checkpoints._retention import Retention

STATE, META = "state", "meta"
"""The items of a checkpoint."""


def open_manager(directory: Path, retention: Retention, read_only: bool) -> Any:
    """The manager of a folder that exists; it neither waits for other processes nor for theirs."""
    import orbax.checkpoint as ocp

    options: dict[str, Any] = {}
    if jax.process_count() > 1:  # one process writes, without waiting for the others
        own = jax.process_index()
        options["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"deqjax{own}"
        )
    # In the foreground: where a folder cannot be made, threads would wait 300 s for its background
    # task, keep the process from ending, and print a traceback each.
    options["async_options"] = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    return ocp.CheckpointManager(
        directory,
        # Named handlers: without them a fresh manager cannot read a step's metadata.
        item_handlers={
            STATE: ocp.StandardCheckpointHandler(),
            META: ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(
            preservation_policy=retention,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=False,
            **options,
        ),
    )
