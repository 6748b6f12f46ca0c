"""Checkpoints of a run: state, data position and metadata in one atomic step of Orbax.

Orbax writes a step atomically, but tells no flipped bit: each leaf, the metadata and each file of a
step have a checksum of their own here.
"""

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from deqjax.training._workdir import saved_steps
from deqjax.training.checkpoints._content import read_content, sealed
from deqjax.training.checkpoints._damage import (
    FAILURES,
    DamagedCheckpointError,
    check_readable,
    damaged,
    summary,
)
from deqjax.training.checkpoints._digests import digest_of_json, digests_of_leaves
from deqjax.training.checkpoints._listing import list_files, read_through, verify_files
from deqjax.training.checkpoints._orbax_manager import META, STATE, open_manager
from deqjax.training.checkpoints._quarantine import move_away
from deqjax.training.checkpoints._quiet import Silence
from deqjax.training.checkpoints._retention import Retention, best
from deqjax.training.checkpoints._stored_state import (
    CheckpointError,
    as_asked,
    as_stored,
    check_fit,
    form,
    named_leaves,
    to_host,
)


class Checkpoints:
    """The checkpoints below one folder, one numbered folder a step; a context manager.

    Saving is asynchronous: `save` returns once the state is copied, and a save that failed later
    raises at the next `save`, `poll`, `wait` or `close`. A step counts as saved only after one of
    these.

    Args:
        directory: the folder of the checkpoints, created if absent.
        keep: how many of the newest steps stay on disk, at least 1.
        keep_best: how many of those with the lowest score stay beside them.
        read_only: nothing is written; so it must be for all processes but one.

    Attributes:
        directory: the folder, absolute.
        manager: Orbax's, below this one.

    Raises:
        CheckpointError: if `keep` is below 1 or the folder cannot be created.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        keep: int = 3,
        keep_best: int = 0,
        read_only: bool = False,
    ) -> None:
        if keep < 1:
            raise CheckpointError(f"keep={keep} would keep no checkpoint at all; use 1 or more.")
        # Orbax saves below a path with "..", and then cannot read it
        given = Path(directory).absolute()
        self.directory = given.resolve() if ".." in given.parts else given
        self._read_only = read_only
        self._silence, self._has_failed = Silence(), False
        self._durable: int | None = None  # newest step that this object knows to be on disk
        self._pending: int | None = None  # step whose asynchronous save is under way
        self._announced: dict[int, dict[str, Any]] = {}  # what a step under way will say of itself
        self._listing: threading.Thread | None = None  # writes the checksums of a step's files
        self._silence.begin()
        try:
            if not read_only:
                self.directory.mkdir(parents=True, exist_ok=True)
            retention = Retention(keep, keep_best, self._contents)
            self.manager = open_manager(self.directory, retention, read_only)
        except OSError as error:
            self._silence.end()
            raise CheckpointError(
                f"Checkpoints cannot be kept in {self.directory} ({error.strerror}); "
                "choose another folder."
            ) from error

    def steps(self) -> list[int]:
        """The steps on disk, oldest first, in whatever condition; one under way does not count."""
        return [step for step in saved_steps(self.directory) if step != self._pending]

    @property
    def durable(self) -> int | None:
        """The newest step that this object has seen on disk, None before the first."""
        return self._durable

    def latest_step(self) -> int | None:
        """The newest of `steps`, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the lowest score, or None; damaged steps and those without do not count."""
        contents = self._contents()
        found = best({step: contents[step] for step in self.steps() if step in contents}, 1)
        return found[0] if found else None

    def save(
        self,
        step: int,
        state_tree: Any,
        data_iterator: Any,
        meta: Mapping[str, Any],
        *,
        score: float | None = None,
        sound: bool = True,
    ) -> str:
        """Saves one step, all of it or nothing.

        Does nothing if this object has just saved or restored this very step.

        Args:
            step: number of finished training steps, above every step saved before.
            state_tree: pytree of arrays of any dtype, typed PRNG keys included, in host memory or
                on this process's devices. It is copied before the call returns, so its buffers
                may be donated or overwritten.
            data_iterator: Grain iterator whose position is saved, or None for none.
            meta: what JSON can hold, returned by `restore`.
            score: by which the best are kept, lower is better; None or not finite is no score.
            sound: whether the run may go back to it; the newest of these always stays on disk.

        Returns:
            A hash of the whole state, 64 hexadecimal digits.

        Raises:
            CheckpointError: if the save before this one failed, this one cannot be written, a leaf
                is not an array, or the folder holds this step or a later one already.
            TypeError: if `meta` does not fit into JSON.
        """
        import orbax.checkpoint as ocp

        self.wait()
        tree = to_host(state_tree)
        leaves = named_leaves(tree)
        digests = digests_of_leaves(leaves)
        state_hash = digest_of_json(digests)
        if step == self._durable:
            return state_hash
        latest = self.latest_step()
        if latest is not None and step <= latest:
            # Orbax would return False here and write nothing.
            raise CheckpointError(
                f"Step {step} cannot be saved because {self.directory} already holds step "
                f"{latest}; move the steps from {step} on away, or choose another folder."
            )
        score = score if score is not None and math.isfinite(score) else None
        content = {
            "step": step,
            "state_hash": state_hash,
            "leaves": {name: [form(leaf), digests[name]] for name, leaf in leaves.items()},
            "position": None if data_iterator is None else data_iterator.get_state(),
            "score": score,
            "sound": sound,
            "meta": dict(meta),
        }
        items = ocp.args.Composite(
            **{STATE: ocp.args.StandardSave(tree), META: ocp.args.JsonSave(sealed(content))}
        )
        self._announced = {step: content}
        try:
            started = self.manager.save(step, args=items)
        except FAILURES as error:
            self.manager.reload()
            raise self._failed_save(step, error) from error
        if not started:
            raise CheckpointError(f"Orbax declined to save step {step} in {self.directory}.")
        self._pending = step
        return state_hash

    def restore(
        self, abstract_state_tree: Any, data_iterator: Any = None, step: int | None = None
    ) -> tuple[int, Any, dict[str, Any]]:
        """Reads one step back, bit for bit, and verifies every checksum.

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
            DamagedCheckpointError: if the step does not hold what was saved.
            CheckpointError: if there is no such step, or a leaf's name, shape or dtype differs from
                the tree to fill.
        """
        import orbax.checkpoint as ocp

        self.wait()
        self._finish_listing()
        step = self.latest_step() if step is None else step
        if step is None or step not in self.steps():
            wanted = "checkpoint" if step is None else f"step {step}"
            raise CheckpointError(
                f"There is no {wanted} in {self.directory}; name a folder that holds one, or "
                "start a new run."
            )
        folder = self._folder(step)
        verify_files(folder)
        content = read_content(folder)
        plain = jax.tree.map(as_stored, abstract_state_tree)
        check_fit(folder, content["leaves"], plain)
        try:
            read_through(folder / STATE)
            items = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(plain)})
            tree = self.manager.restore(step, args=items)[STATE]
        except Exception as error:  # a damaged file makes its reader fail in any way
            check_readable(folder, error)
            raise damaged(folder, summary(error)) from error
        found = digests_of_leaves(named_leaves(tree))
        for name, (_, digest) in content["leaves"].items():
            if found[name] != digest:
                raise damaged(folder, f"leaf {name} of the state has another checksum")
        if data_iterator is not None:
            data_iterator.set_state(content["position"])
        self._durable = step
        return step, jax.tree.map(as_asked, abstract_state_tree, tree), content["meta"]

    def restore_newest(
        self,
        abstract_state_tree: Any,
        data_iterator: Any = None,
        *,
        say: Callable[[str], None],
        quarantine: Path | None = None,
        sound: bool = False,
    ) -> tuple[int, Any, dict[str, Any]]:
        """Reads the newest step that is undamaged; see `restore`.

        Args:
            abstract_state_tree: the tree to fill.
            data_iterator: Grain iterator to move, or None.
            say: is told of each damaged step.
            quarantine: folder that steps newer than the one found are moved to, so that their
                numbers are free again; None leaves them where they are.
            sound: whether steps that were not saved as sound are passed over, too.

        Raises:
            CheckpointError: if there is no undamaged step (nothing is moved then), or the state
                does not fit.
        """
        self.wait()
        passed: list[int] = []
        for step in reversed(self.steps()):
            try:
                if not sound or read_content(self._folder(step))["sound"]:
                    found = self.restore(abstract_state_tree, data_iterator, step)
                    if passed and quarantine is not None:
                        move_away(map(self._folder, passed), quarantine, say)
                        self.manager.reload()
                    return found
            except DamagedCheckpointError as error:
                say(str(error))
            passed.append(step)
        kind, steps = "sound and undamaged" if sound else "undamaged", ", ".join(map(str, passed))
        raise CheckpointError(
            f"There is no {kind} checkpoint in {self.directory} (passed over: {steps or 'none'}); "
            "put back a copy of one, or start a new run in another --workdir. Nothing was changed."
        )

    def state_hash(self, step: int) -> str:
        """The hash of a saved state, as `save` returned it.

        Raises:
            DamagedCheckpointError: if the step's metadata are damaged.
        """
        return str(read_content(self._folder(step))["state_hash"])

    def poll(self) -> None:
        """Finds out, without waiting, whether the last save has ended.

        Raises:
            CheckpointError: if it has failed.
        """
        if self._pending is not None and not self.manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns once the last save is on disk.

        Raises:
            CheckpointError: if it failed; the step is then not on disk and may be saved again.
        """
        step, self._pending, self._announced = self._pending, None, {}
        try:
            self.manager.wait_until_finished()
        except FAILURES as error:
            self.manager.reload()  # forgets the step that was announced but never written
            raise self._failed_save(step, error) from error
        if step is not None:
            self._durable = step
            self._listing = threading.Thread(target=list_files, args=(self._folder(step),))
            self._listing.start()

    def close(self) -> None:
        """Waits for the last save and lets go of the folder.

        Raises:
            CheckpointError: if the last save failed.
        """
        try:
            self.wait()
        finally:
            self._finish_listing()
            self._close_manager()

    def _close_manager(self) -> None:
        try:
            self.manager.close()
        except FAILURES as error:  # a part of a save that went on when another had failed
            if not self._has_failed:
                raise self._failed_save(None, error) from error
            self.manager.close()  # Orbax tells once, and has closed nothing
        finally:
            self._silence.end(failed=self._has_failed)

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

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _finish_listing(self) -> None:
        if self._listing is not None:
            self._listing.join()
            self._listing = None

    def _failed_save(self, step: int | None, error: BaseException) -> CheckpointError:
        self._has_failed = True
        what = "A checkpoint" if step is None else f"Step {step}"
        return CheckpointError(
            f"{what} could not be saved in {self.directory} ({summary(error)}); check the "
            "free space and the permissions there."
        )

    def _contents(self) -> dict[int, dict[str, Any]]:
        """What each readable step says of itself, and what the one under way will say."""
        found = dict(self._announced)
        for step in self.steps():
            try:
                found[step] = read_content(self._folder(step))
            except CheckpointError:
                continue  # told of where it is asked for
        return found
