"""Using a run that was trained: scores and text from its newest checkpoint."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import jax

from deqjax._fields import FieldError, check_value
from deqjax._ranges import NotNegative, Seed, Steps
from deqjax.data import Vocabulary
from deqjax.models import GeneratedToken, LanguageModel, generate, reread
from deqjax.training import _language
from deqjax.training._config import ConfigError, RunConfig, check
from deqjax.training._run import Run, build
from deqjax.training._stored_config import from_dict
from deqjax.training._workdir import Workdir, read_config
from deqjax.training.checkpoints import CheckpointError, Checkpoints
from deqjax.training.step import SolveLimits

Which: TypeAlias = Literal["newest", "best"] | int
"""A checkpoint: the newest undamaged one, the one with the lowest validation loss, or a step's."""


def load_run(
    workdir: Path | str, checkpoint: Which = "newest", *, say: Callable[[str], None] = print
) -> Run:
    """A run's parts with the state of one of its checkpoints.

    Args:
        workdir: the run's folder.
        checkpoint: which one.
        say: is told of damaged checkpoints that are passed over.

    Raises:
        WorkdirError, ConfigError, CheckpointError, DataError: there is no readable run.
    """
    _, values = read_config(workdir)
    config = from_dict(values)
    check(config)
    folder = Workdir.at(workdir)
    if not folder.checkpoints.is_dir():
        raise CheckpointError(f"there is no checkpoint in {workdir}; train first.")
    run = build(config)
    with Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
        if checkpoint == "newest" and checkpoints.steps():
            _, state, _ = checkpoints.restore_newest(run.state, say=say)
        else:
            step = checkpoints.best_step() if checkpoint == "best" else checkpoint
            if step is None:
                raise CheckpointError(
                    f"no checkpoint in {workdir} was made at a step with an evaluation; choose the "
                    "newest instead of the best."
                )
            number = None if isinstance(step, str) else step
            _, state, _ = checkpoints.restore(run.state, step=number)
    return run._replace(state=state)


def evaluate_run(
    workdir: Path | str,
    *,
    split: str = "validation",
    checkpoint: Which = "newest",
    max_steps: int | None = None,
    tol: float | None = None,
) -> dict[str, float]:
    """Score a run on a split; see `deqjax.training._task.Task`.

    Args:
        workdir: the run's folder.
        split: "validation" or "test".
        checkpoint: which one; see [`load_run`][deqjax.training.load_run].
        max_steps: forward steps at most, instead of the run's.
        tol: relative tolerance, instead of the run's.

    Raises:
        WorkdirError, ConfigError, CheckpointError, DataError: there is no readable run, or a
            limit makes no sense.
    """
    run = load_run(workdir, checkpoint)
    limits = solve_limits(run.config, max_steps=max_steps, tol=tol)
    return run.task.evaluate(
        run.steps,
        run.steps.replicate(run.state.evaluated),
        split,
        batches=run.config.evaluation.final_batches,
        limits=limits,
    )


def solve_limits(
    config: RunConfig, *, max_steps: int | None = None, tol: float | None = None
) -> SolveLimits:
    """A configuration's limits of the forward solve, but for those that are given.

    Raises:
        ConfigError: a limit makes no sense, or the model solves nothing.
    """
    solver = config.solver
    if not config.solves and (max_steps is not None or tol is not None):
        raise ConfigError("an explicit model solves nothing; drop --max-steps and --tol.")
    limits = SolveLimits(
        solver.tol if tol is None else tol, solver.max_steps if max_steps is None else max_steps
    )
    try:
        check_value(limits.max_steps, Steps, "--max-steps")
        check_value(limits.tol, NotNegative, "--tol")
    except FieldError as error:
        raise ConfigError(str(error)) from error
    return limits


class GeneratedText:
    """Text that continues a prompt, generated while it is iterated over, once.

    Attributes:
        prompt: the prompt as the model reads it: words have single spaces and may be unknown.
        steps: of the solver, for each token so far; stays empty if the model solves nothing.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        prompt: list[int],
        generated: Iterator[GeneratedToken],
    ) -> None:
        self.steps: list[int] = []
        self._model, self._prompt, self._generated = model, prompt, generated
        self._tokens: list[int] = []
        self._decoder = vocabulary.decoder()
        self.prompt = self._decoder.decode(prompt)

    def __iter__(self) -> Iterator[str]:
        """The pieces of text that the tokens complete."""
        for each in self._generated:
            self._tokens.append(each.token)
            self.steps += _steps(each)
            yield self._decoder.decode(each.token)
        yield self._decoder.finish()

    def steps_without_warm_start(self) -> list[int]:
        """What the tokens so far would have cost, had each solve started at zero."""
        again = reread(self._model, self._prompt, self._tokens, warm_start=False)
        return [steps for each in again for steps in _steps(each)]


def generate_text(
    workdir: Path | str,
    prompt: str,
    *,
    count: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> GeneratedText:
    """Continue a prompt by ``count`` tokens; see [`deqjax.models.generate`][].

    Raises:
        ConfigError: no language model, an empty prompt, or an option that makes no sense.
        WorkdirError, CheckpointError, DataError: there is no readable run, or the prompt holds what
            its vocabulary does not know.
    """
    run = load_run(workdir)
    if not isinstance(run.task, _language.LanguageTask):
        raise ConfigError(f"{workdir} holds no language model; there is no text to generate.")
    model = run.model
    vocabulary = run.task.corpus.vocabulary
    tokens = vocabulary.encode(prompt).tolist()
    try:
        check_value(seed, Seed, "--seed")
        generated = generate(
            model,
            tokens,
            count,
            key=jax.random.key(seed),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            vocabulary=vocabulary.size,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    return GeneratedText(model, vocabulary, tokens, generated)


def _steps(token: GeneratedToken) -> list[int]:
    return [] if token.steps is None else [token.steps]
