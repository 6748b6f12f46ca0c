"""Using a run that was trained: scores and text from its newest checkpoint."""

import codecs
from collections.abc import Iterator
from pathlib import Path

import jax

from deqjax.data import fit_bigram
from deqjax.models import generate
from deqjax.solvers._validate import check_count, check_not_negative
from deqjax.training import language, loop
from deqjax.training.checkpoint import CheckpointError, Checkpoints
from deqjax.training.config import ConfigError, check, from_dict
from deqjax.training.step import SolveLimits
from deqjax.training.workdir import Workdir, read_config


def load_run(workdir: Path | str) -> loop.Run:
    """A run's parts with the state of its newest checkpoint.

    Raises:
        WorkdirError, ConfigError, CheckpointError, DataError: there is no readable run.
    """
    _, values = read_config(workdir)
    config = from_dict(values)
    check(config)
    folder = Workdir(Path(workdir))
    if not folder.checkpoints.is_dir():
        raise CheckpointError(f"there is no checkpoint in {workdir}; train first.")
    run = loop.build(config)
    with Checkpoints(folder.checkpoints, keep=config.keep_checkpoints) as checkpoints:
        _, state, _ = checkpoints.restore(run.state)
    return run._replace(state=state)


def evaluate_run(
    workdir: Path | str,
    *,
    split: str = "validation",
    max_steps: int | None = None,
    tol: float | None = None,
) -> dict[str, float]:
    """Score a run on a split; see :func:`deqjax.training.language.evaluate`.

    Args:
        workdir: the run's folder.
        split: "validation" or "test".
        max_steps: forward steps at most, instead of the run's.
        tol: relative tolerance, instead of the run's.

    Raises:
        WorkdirError, ConfigError, CheckpointError, DataError: there is no readable run, or a
            limit makes no sense.
    """
    run = load_run(workdir)
    solver = run.config.model.solver
    if run.config.model.kind == "explicit" and (max_steps is not None or tol is not None):
        raise ConfigError("an explicit model solves nothing; drop --max-steps and --tol.")
    limits = SolveLimits(
        solver.tol if tol is None else tol, solver.max_steps if max_steps is None else max_steps
    )
    try:
        check_count("--max-steps", limits.max_steps)
        check_not_negative("--tol", limits.tol)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return language.evaluate(
        run.config,
        run.steps,
        run.steps.replicate(run.state.parameters),
        getattr(run.corpus, split),
        batches=run.config.evaluation.final_batches,
        bigram=fit_bigram(run.corpus.train),
        limits=limits,
    )


def generate_text(
    workdir: Path | str, prompt: str, *, count: int, temperature: float, seed: int
) -> Iterator[str]:
    """Yield pieces of text that continue the prompt, one byte each except for incomplete UTF-8.

    Raises:
        ConfigError: an empty prompt, or a negative temperature or count.
        WorkdirError, CheckpointError, DataError: there is no readable run.
    """
    run = load_run(workdir)
    model = run.steps.problem.architecture.build(run.state.parameters, train=False)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    try:
        stream = generate(
            model,
            prompt.encode(),
            count,
            key=jax.random.key(seed),
            temperature=temperature,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for byte in stream:
        yield decoder.decode(bytes([byte]))
