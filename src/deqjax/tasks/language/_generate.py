"""Text from a language model that was trained."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from deqjax._fields import check_value
from deqjax._ranges import Seed
from deqjax.data import Vocabulary
from deqjax.models import GeneratedToken, LanguageModel, generate, reread
from deqjax.tasks.language._text_task import TextTask
from deqjax.training import ConfigError, load_run


class GeneratedText:
    """Text that continues a prompt, generated while it is iterated over, once.

    Attributes:
        prompt: the prompt as the model reads it: words have single spaces and may be unknown.
        steps: of the solver, for each token so far; stays empty if the model solves nothing.
        tokens_a_second: once it has been iterated over, without the first token, for which
            programs are compiled; None if there were no others.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        prompt: list[int],
        generated: Iterator[GeneratedToken],
    ) -> None:
        self.steps: list[int] = []
        self.tokens_a_second: float | None = None
        self._model, self._prompt, self._generated = model, prompt, generated
        self._tokens: list[int] = []
        self._decoder = vocabulary.decoder()
        self.prompt = self._decoder.decode(prompt)

    def __iter__(self) -> Iterator[str]:
        """The pieces of text that the tokens complete."""
        for each in _timed(self._generated, self._set_pace):
            self._tokens.append(each.token)
            self.steps += _steps(each)
            yield self._decoder.decode(each.token)
        yield self._decoder.finish()

    def _set_pace(self, tokens_a_second: float) -> None:
        self.tokens_a_second = tokens_a_second

    def tokens_a_second_without_cache(self) -> float | None:
        """Had all that a position sees been solved again for each token; None as above."""
        again = reread(self._model, self._prompt, self._tokens, cache=False)
        paces: list[float] = []
        for _ in _timed(again, paces.append):
            pass
        return paces[0] if paces else None

    def steps_without_warm_start(self) -> list[int]:
        """What the tokens so far would have cost, had each solve started at zero."""
        again = reread(self._model, self._prompt, self._tokens, warm_start=False)
        return [steps for each in again for steps in _steps(each)]


def _timed(
    tokens: Iterator[GeneratedToken], tell: Callable[[float], None]
) -> Iterator[GeneratedToken]:
    """The same tokens; then it tells how many came in a second after the first.

    Only the time that is spent on them counts, not what is done with them in between.
    """
    seconds, count = 0.0, 0
    while True:
        before = time.perf_counter()
        each = next(tokens, None)
        if each is None:
            break
        seconds += time.perf_counter() - before if count else 0.0
        count += 1
        yield each
    if count > 1 and seconds > 0:
        tell((count - 1) / seconds)


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
    if not isinstance(run.task, TextTask):
        raise ConfigError(f"{workdir} holds no language model; there is no text to generate.")
    model = run.model
    vocabulary = run.task.vocabulary
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
