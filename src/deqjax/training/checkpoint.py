"""Checkpoints of a run: state, data position and metadata in one atomic step of Orbax."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

_STATE, _DATA, _META = "state", "data", "meta"
# What Orbax, Grain and TensorStore were seen to raise on full disks and on missing, emptied or
# truncated files (TensorStore's own errors are ValueErrors, and so are those of json).
_FAILURES = (ValueError, LookupError, OSError)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or cannot be read, or does not fit the state asked for."""


class Checkpoints:
    """The checkpoints below one folder, one numbered folder a step; a context manager.

    Saving is asynchronous: `save` returns once the state is copied, and a save that failed later
    raises at the next `save`, `wait` or `close`. A step counts as saved only after one of these.

    Args:
        directory: the folder of the checkpoints, created if absent.
        keep: how many of the newest steps stay on disk, at least 1.

    Raises:
        CheckpointError: if `keep` is below 1 or the folder cannot be created.
    """

    def __init__(self, directory: Path | str, *, keep: int = 3) -> None:
        if keep < 1:
            raise CheckpointError(f"keep={keep} would keep no checkpoint at all; use 1 or more.")
        import grain
        import orbax.checkpoint as ocp

        self._directory = Path(directory).absolute()
        self._quiet = _NotFromOrbax()
        self._durable: int | None = None  # newest step that this object knows to be on disk
        self._pending: int | None = None  # step whose asynchronous save is under way
        logging.getLogger("absl").addFilter(self._quiet)
        try:
            self._manager = ocp.CheckpointManager(
                self._directory,
                # Named handlers: without them a fresh manager cannot read a step's metadata.
                item_handlers={
                    _STATE: ocp.StandardCheckpointHandler(),
                    _DATA: grain.checkpoint.CheckpointHandler(),
                    _META: ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(max_to_keep=keep),
            )
        except OSError as error:
            logging.getLogger("absl").removeFilter(self._quiet)
            raise CheckpointError(
                f"Checkpoints cannot be kept in {self._directory} ({error.strerror}); "
                "choose another folder."
            ) from error

    def latest_step(self) -> int | None:
        """The newest step, or None; a step whose save is still under way does not count."""
        steps = [int(step) for step in self._manager.all_steps() if step != self._pending]
        return max(steps, default=None)

    def save(self, step: int, state_tree: Any, data_iterator: Any, meta: Mapping[str, Any]) -> None:
        """Saves one step, all of it or nothing.

        Does nothing if this object has just saved or restored this very step.

        Args:
            step: number of finished training steps, above every step saved before.
            state_tree: pytree of arrays of any dtype, typed PRNG keys included, in host memory or
                on this process's devices. It is copied before the call returns, so its buffers
                may be donated or overwritten.
            data_iterator: Grain iterator whose position is saved, or None for none.
            meta: what JSON can hold, returned by `restore`.

        Raises:
            CheckpointError: if the save before this one failed, this one cannot be written, a leaf
                is not an array, or the folder holds this step or a later one already.
            TypeError: if `meta` does not fit into JSON.
        """
        import grain
        import orbax.checkpoint as ocp

        self.wait()
        if step == self._durable:
            return
        latest = self.latest_step()
        if latest is not None and step <= latest:
            # Orbax would return False here and write nothing.
            raise CheckpointError(
                f"Step {step} cannot be saved because {self._directory} already holds step "
                f"{latest}; move the steps from {step} on away, or choose another folder."
            )
        json.dumps(dict(meta))  # fails here and now, not in the thread that writes it
        items: dict[str, Any] = {
            _STATE: ocp.args.StandardSave(jax.tree_util.tree_map_with_path(_to_host, state_tree)),
            _META: ocp.args.JsonSave(dict(meta)),
        }
        if data_iterator is not None:
            items[_DATA] = grain.checkpoint.CheckpointSave(data_iterator)
        try:
            started = self._manager.save(step, args=ocp.args.Composite(**items))
        except _FAILURES as error:
            raise self._failed_save(step, error) from error
        if not started:
            raise CheckpointError(f"Orbax declined to save step {step} in {self._directory}.")
        self._pending = step

    def restore(
        self, abstract_state_tree: Any, data_iterator: Any = None, step: int | None = None
    ) -> tuple[int, Any, dict[str, Any]]:
        """Reads one step back, bit for bit.

        Args:
            abstract_state_tree: the tree to fill, with arrays or `jax.ShapeDtypeStruct` as leaves
                (`jax.eval_shape` makes one). It decides the structure: named tuples come back.
            data_iterator: Grain iterator, built as at the save, that is moved to the saved
                position; None leaves the position unread.
            step: the step to read, by default the newest.

        Returns:
            The step, the state and the metadata. The state's leaves are NumPy arrays of the saved
            shape and dtype, except that typed PRNG keys are JAX arrays on the default device.

        Raises:
            CheckpointError: if there is no such step, a part of it is missing or damaged, or a
                leaf's name, shape or dtype differs from the tree to fill.
        """
        import grain
        import orbax.checkpoint as ocp

        self.wait()
        step = self.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            wanted = "checkpoint" if step is None else f"step {step}"
            raise CheckpointError(
                f"There is no {wanted} in {self._directory}; name a folder that holds one, or "
                "start a new run."
            )
        folder = self._directory / str(step)
        plain = jax.tree.map(_as_stored, abstract_state_tree)
        items: dict[str, Any] = {
            _STATE: ocp.args.StandardRestore(plain),
            _META: ocp.args.JsonRestore(),
        }
        if data_iterator is not None:
            items[_DATA] = grain.checkpoint.CheckpointRestore(data_iterator)
        try:
            _read_through(folder / _STATE)
            stored = self._manager.item_metadata(step)[_STATE]
            if stored is None:
                raise FileNotFoundError(f"{folder / _STATE} has no readable description")
            _check_fit(folder, stored.tree, plain)
            found = self._manager.restore(step, args=ocp.args.Composite(**items))
        except _FAILURES as error:
            raise CheckpointError(
                f"The checkpoint in {folder} is damaged or incomplete ({_summary(error)}); move "
                "that folder away to fall back to an older step."
            ) from error
        self._durable = step
        return step, jax.tree.map(_as_asked, abstract_state_tree, found[_STATE]), found[_META]

    def wait(self) -> None:
        """Returns once the last save is on disk.

        Raises:
            CheckpointError: if it failed; the step is then not on disk and may be saved again.
        """
        step, self._pending = self._pending, None
        try:
            self._manager.wait_until_finished()
        except _FAILURES as error:
            self._manager.reload()  # forgets the step that was announced but never written
            raise self._failed_save(step, error) from error
        self._durable = self._durable if step is None else step

    def close(self) -> None:
        """Waits for the last save and lets go of the folder.

        Raises:
            CheckpointError: if the last save failed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()
            logging.getLogger("absl").removeFilter(self._quiet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError as failed:
            if error is None:
                raise
            error.add_note(str(failed))  # the first error stays the one that is raised

    def _failed_save(self, step: int | None, error: BaseException) -> CheckpointError:
        return CheckpointError(
            f"Step {step} could not be saved in {self._directory} ({_summary(error)}); check the "
            "free space and the permissions there."
        )


class _NotFromOrbax(logging.Filter):
    """Drops what Orbax logs: its failures reach us as exceptions, and in one sentence."""

    def filter(self, record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _to_host(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
    """The leaf as a NumPy array: readable on any device, whatever it was saved from."""
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        return np.asarray(jax.random.key_data(leaf))
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic) or leaf.dtype.kind in "OSU":
        raise CheckpointError(
            f"Leaf {_name(path)} of the state is {leaf!r}, which is not an array of numbers; "
            "keep it in the metadata, or make it an array."
        )
    return np.asarray(leaf)


def _as_stored(leaf: Any) -> jax.ShapeDtypeStruct:
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _as_asked(leaf: Any, value: np.ndarray) -> Any:
    if not _is_key(leaf):
        return value
    implementation = jax.random.key_impl(jnp.empty(leaf.shape, leaf.dtype))
    return jax.random.wrap_key_data(jnp.asarray(value), impl=implementation)


def _check_fit(folder: Path, stored: Any, wanted: Any) -> None:
    """Compares names, shapes and dtypes, because Orbax would cast without a word."""
    there, here = (
        {
            _name(path): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (stored, wanted)
    )
    names = [name for name in here | there if here.get(name) != there.get(name)]
    if names:
        first = names[0]
        raise CheckpointError(
            f"The checkpoint in {folder} is of another model: leaf {first} is "
            f"{there.get(first, 'absent')} there and {here.get(first, 'absent')} here "
            f"({len(names)} leaves differ); use the config it was saved with."
        )


def _read_through(folder: Path) -> None:
    """Reads every byte of the arrays, one after the other.

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


def _summary(error: BaseException) -> str:
    """The first line of a message, without the specification that TensorStore appends."""
    lines = str(error).split(" [tensorstore_spec")[0].splitlines() or [type(error).__name__]
    return lines[0][:200]
