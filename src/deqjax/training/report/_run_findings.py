"""What can be wrong with a run besides its solves: one rule for each, and its threshold."""

import math
from collections.abc import Iterator

from deqjax.training.records import words_of
from deqjax.training.report._figures import Figures
from deqjax.training.report._finding import Finding, Options, calmer, way

WAITING = 0.1
"""Share of the time without a batch to train on; below it, more threads gain next to nothing."""

SLOWER = 0.7
"""Throughput late in the run against early: more than other users of a machine account for."""

MEMORY_GROWTH, MEMORY_GIB = 1.2, 0.5
"""Growth of the host's memory, as a factor and in GiB, that caches do not account for."""

OVERFITTED = 1.05
"""Last validation loss against the best one: beyond what the choice of batches moves it by."""

RISEN = 1.1
"""Training loss of the last quarter of the records against the lowest quarter's: beyond noise."""

OVERDUE = 2
"""Checkpoint intervals after which a checkpoint should long have been on disk."""


def not_finite(figures: Figures, options: Options) -> Iterator[Finding]:
    """The loss is NaN or infinite."""
    last = figures.train
    now = last is not None and not math.isfinite(last.values.get("loss", 0.0))
    # an update that was skipped has done no harm, and is told of as such
    if now or (figures.not_finite and not figures.skipped):
        yield Finding(
            "loss-not-finite",
            f"the loss was NaN or infinite in {figures.not_finite} record(s) of training"
            + (", in the last one too" if now else ""),
            "a solve or an activation overflowed; if it stays so, nothing is learned any more",
            calmer(figures, options),
        )


def skipped(figures: Figures, options: Options) -> Iterator[Finding]:
    """Updates were skipped."""
    if figures.skipped:
        share = figures.skipped / max(figures.steps, figures.skipped)
        yield Finding(
            "updates-skipped",
            f"{figures.skipped} update(s) were skipped, {share:.2%} of the steps",
            "their loss or gradient was not finite; a few in a long run do no harm, a growing "
            "number comes before divergence",
            calmer(figures, options),
        )


def rolled_back(figures: Figures, options: Options) -> Iterator[Finding]:
    """The run went back to an earlier state."""
    if figures.rollbacks:
        yield Finding(
            "rolled-back",
            f"the run was rolled back to a checkpoint {figures.rollbacks} time(s)",
            "training had become unstable and went on from an earlier state; if it happens again "
            "and again the run makes no way",
            calmer(figures, options),
        )


def training_rises(figures: Figures, options: Options) -> Iterator[Finding]:
    """What was learned is lost again."""
    if _rises(figures):
        now, low = figures.late[figures.loss], figures.lowest_quarter
        yield Finding(
            "training-rises",
            f"the training loss has risen to {now:.4f}, after {low:.4f} in an earlier quarter",
            "training has become unstable, or something else than the loss decides where it goes",
            calmer(figures, options),
        )


def _rises(figures: Figures) -> bool:
    now, low = figures.late.get(figures.loss, math.nan), figures.lowest_quarter
    return low is not None and low > 0 and now >= RISEN * low


def overfitted(figures: Figures, options: Options) -> Iterator[Finding]:
    """New data is fitted worse than before."""
    last, best = figures.validation, figures.best
    now = math.nan if last is None else last.values.get(figures.loss, math.nan)
    if _rises(figures):  # then it is not for a better fit of the training data
        return
    if best is not None and best.value > 0 and now >= OVERFITTED * best.value:
        yield Finding(
            "validation-rises",
            f"the validation loss is {now:.4f}, after {best.value:.4f} at step {best.step}",
            "the model fits its training data ever better and new data ever worse",
            "train for fewer steps or on more data, or raise "
            f"{options.now('optimizer.weight_decay')} or dropout",
        )


def no_checkpoint(figures: Figures, options: Options) -> Iterator[Finding]:
    """A checkpoint is overdue."""
    if figures.checkpoints is None:
        return
    newest = max(figures.checkpoints, default=0)
    every = options.get("checkpoint_every")
    if isinstance(every, int) and figures.steps - newest >= OVERDUE * every:
        yield Finding(
            "no-checkpoint",
            f"the newest checkpoint on disk is of step {newest}, and the run is at {figures.steps}",
            f"a stop now would lose {figures.steps - newest} steps, although one is due every "
            f"{every}",
            "look at the events, and at the free space and the permissions of the folder",
        )


def waits(figures: Figures, options: Options) -> Iterator[Finding]:
    """The training loop waits for its batches."""
    share = figures.late.get("data_wait", 0.0)
    if share >= WAITING:
        threads = options.get("threads") is not None
        yield Finding(
            "waits-for-data",
            f"the loop waits for data in {share:.0%} of its time",
            "the accelerator is idle meanwhile",
            (f"raise {options.now('threads')}, " if threads else "")
            + "put the data on a faster disk, or prepare it in the size that is trained on",
        )


def slower(figures: Figures, options: Options) -> Iterator[Finding]:
    """Throughput has fallen."""
    del options
    name = figures.throughput or ""
    trend = figures.trends.get(name)
    if trend is not None and trend.growth <= SLOWER:
        label, form = words_of(name)
        yield Finding(
            "slower",
            f"the run has become slower: {way(trend, form)}, in {label}",
            "solves take more steps, or something else uses the machine",
            "compare with the steps of a solve, the wait for data and the machine's load",
        )


def memory_grows(figures: Figures, options: Options) -> Iterator[Finding]:
    """The host's memory grows."""
    del options
    trend = figures.trends.get("host_memory_gib")
    grows = trend is not None and trend.growth >= MEMORY_GROWTH
    if trend is not None and grows and trend.late - trend.early >= MEMORY_GIB:
        yield Finding(
            "memory-grows",
            f"the host's memory grows: {way(trend, '.2f')}, in GiB",
            "a long run may be ended by the system for it",
            "stop and resume the run, which frees it, and report it with the records",
        )
