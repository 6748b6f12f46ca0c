"""Continuing a text with a language model, one position at a time."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._core.types import State
from deqjax._core.validate import check_count, check_not_negative
from deqjax.models._language_model import TokenModel
from deqjax.models._memory import SegmentMemory
from deqjax.models._sampling import draw
from deqjax.solvers import Stats

_RECENT = 512
"""How many positions back an equilibrium is kept to start from."""


class GeneratedToken(NamedTuple):
    """A token, and how the position that it was drawn from was solved.

    Attributes:
        token: its number in the vocabulary.
        steps: of the solver; None for an explicit model.
        residual: relative, of the equilibrium; None for an explicit model.
    """

    token: int
    steps: int | None
    residual: float | None


def generate(
    model: TokenModel,
    prompt: Sequence[int],
    count: int,
    *,
    key: jax.Array,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    vocabulary: int | None = None,
    warm_start: bool = True,
    cache: bool = True,
    tol: float | None = None,
    max_steps: int | None = None,
) -> Iterator[GeneratedToken]:
    """Return an iterator over ``count`` tokens that continue the prompt.

    A later token does not move the equilibria of the earlier ones, because the models are causal.
    So these are the memory of the next position, and a token costs the solve of one position, which
    sees as far back as the last one of a training segment.

    The prompt is read in segments of the training length, the rest of it token by token. Another
    prompt or another option compiles nothing, except for the first ``tol`` or ``max_steps`` that is
    not None.

    Args:
        model: a language model in evaluation mode.
        prompt: at least one token.
        count: tokens to generate.
        key: a JAX random key.
        temperature: of the softmax; 0 takes the most likely token.
        top_k: draw from so many of the most likely tokens; 0 is all.
        top_p: draw from the fewest most likely tokens whose probabilities sum to at least this; 1
            is all.
        vocabulary: draw from the first so many tokens; None is all. For a model that has more
            tokens than its text.
        warm_start: start a solve at an equilibrium of the same token, the last one after the same
            token before it or else the last one, instead of at zero (of an attractor model, at the
            context).
        cache: keep what earlier positions have left, as above. False solves all that a position
            sees again for each token, from zero, to compare the cost: the same text as long as the
            first position is seen; beyond that, what is kept still knows of what is not.
        tol: relative residual at which a solve stops; None is the model's.
        max_steps: of a solve at most; None is the model's.

    Raises:
        ValueError: an empty prompt, a token outside the vocabulary, a negative count, temperature,
            ``top_k`` or ``tol``, ``top_p`` outside (0, 1], ``vocabulary`` or ``max_steps`` below 1,
            or limits of a solve for an explicit model; at the call, before the first token is asked
            for.
    """
    if count < 0:
        raise ValueError(f"the number of tokens to generate must not be negative, got {count}.")
    check_not_negative("temperature", temperature)
    check_count("top_k", top_k, least=0)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}; 1 keeps all tokens.")
    vocabulary = model.shape.tokens if vocabulary is None else vocabulary
    check_count("vocabulary", vocabulary)
    text = _checked_prompt(prompt, model.shape.tokens)
    reader = _reader(model, warm_start, tol, max_steps, cache=cache)
    options = (
        jnp.int32(vocabulary),
        jnp.float32(temperature),
        jnp.int32(top_k),
        jnp.float32(top_p),
    )

    def choose(index: int, states: jax.Array) -> int:
        own_key = jax.random.fold_in(key, index)
        return int(_draw(reader.graph, reader.parameters, states, own_key, *options))

    # a generator itself would raise the above only when its first token is asked for
    return _tokens(reader, text, count, choose)


def reread(
    model: TokenModel,
    prompt: Sequence[int],
    continuation: Sequence[int],
    *,
    warm_start: bool = True,
    cache: bool = True,
    tol: float | None = None,
    max_steps: int | None = None,
) -> Iterator[GeneratedToken]:
    """Return an iterator over the tokens of a continuation, solved as if they were generated.

    It tells what another start or another tolerance costs on the same text.

    Args:
        model: a language model in evaluation mode.
        prompt: at least one token.
        continuation: the tokens to follow it.
        warm_start: see [`generate`][deqjax.models.generate].
        cache: see [`generate`][deqjax.models.generate].
        tol: see [`generate`][deqjax.models.generate].
        max_steps: see [`generate`][deqjax.models.generate].

    Raises:
        ValueError: as [`generate`][deqjax.models.generate].
    """
    text = _checked_prompt(prompt, model.shape.tokens)
    known = _checked("continuation", continuation, model.shape.tokens)
    reader = _reader(model, warm_start, tol, max_steps, cache=cache)
    return _tokens(reader, text, len(known), lambda index, states: known[index])


class _Past(NamedTuple):
    """What the next position needs of those before it.

    Attributes:
        memory: their states.
        tokens: (recent,) int32, the last ones read; -1 where there was none yet.
        equilibria: of these tokens, leaves (1, recent, ...); None in an explicit model.
    """

    memory: SegmentMemory
    tokens: jax.Array
    equilibria: State | None


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A model, taken apart for the compiled functions, and how its positions are solved."""

    graph: nnx.GraphDef[TokenModel]
    parameters: nnx.State[Any, Any]
    length: int
    nothing: _Past
    warm_start: jax.Array
    limits: dict[str, jax.Array | None]

    def read(self, tokens: list[int], past: _Past) -> tuple[_Past, jax.Array, Stats | None]:
        """Read tokens after a past; see `_read`."""
        row = jnp.asarray(tokens, jnp.int32)
        result: tuple[_Past, jax.Array, Stats | None] = _read(
            self.graph, self.parameters, row, past, self.warm_start, self.limits
        )
        return result

    def read_all(self, tokens: list[int]) -> _Past:
        """Read a text in segments, and what is left token by token: two shapes, so two programs."""
        past, whole = self.nothing, len(tokens) - len(tokens) % self.length
        for first in range(0, whole, self.length):
            past, _, _ = self.read(tokens[first : first + self.length], past)
        for token in tokens[whole:]:
            past, _, _ = self.read([token], past)
        return past


@dataclasses.dataclass(frozen=True)
class _WholeReader:
    """As a `_Reader`, whose past is the tokens that a position sees, all solved for each token."""

    graph: nnx.GraphDef[TokenModel]
    parameters: nnx.State[Any, Any]
    window: int
    limits: dict[str, jax.Array | None]

    def read(self, tokens: list[int], past: list[int]) -> tuple[list[int], jax.Array, Stats | None]:
        """Read the last of the tokens after those of the past."""
        seen = [*past, *tokens][-self.window :]
        padded = jnp.asarray([*seen, *[0] * (self.window - len(seen))], jnp.int32)
        states, stats = _read_whole(
            self.graph, self.parameters, padded, jnp.int32(len(seen) - 1), self.limits
        )
        return seen, states, stats

    def read_all(self, tokens: list[int]) -> list[int]:
        """Nothing is solved before a token is asked for."""
        return tokens


def _reader(
    model: TokenModel,
    warm_start: bool,
    tol: float | None,
    max_steps: int | None,
    *,
    cache: bool = True,
) -> "_Reader | _WholeReader":
    if tol is not None:
        check_not_negative("tol", tol)
    if max_steps is not None:
        check_count("max_steps", max_steps)
    # of a segment's positions the last one sees the most
    capacity = model.before
    graph, parameters = nnx.split(model.seeing(capacity))
    nothing = _nothing(graph, capacity, parameters)
    if nothing.equilibria is None and (tol is not None or max_steps is not None):
        raise ValueError("an explicit model solves nothing: leave out tol and max_steps.")
    limits = {
        "tol": None if tol is None else jnp.float32(tol),
        "max_steps": None if max_steps is None else jnp.int32(max_steps),
    }
    if not cache:
        return _WholeReader(graph, parameters, capacity + 1, limits)
    return _Reader(graph, parameters, model.shape.length, nothing, jnp.bool_(warm_start), limits)


def _tokens(
    reader: "_Reader | _WholeReader",
    prompt: list[int],
    count: int,
    choose: Callable[[int, jax.Array], int],
) -> Iterator[GeneratedToken]:
    """Choose tokens one after the other, from their index and the states (1, 1, width) before."""
    past: Any = reader.read_all(prompt[:-1])
    token = prompt[-1]
    for index in range(count):
        past, states, stats = reader.read([token], past)
        token = choose(index, states)
        steps = None if stats is None else int(stats.steps[0])
        residual = None if stats is None else float(stats.residual[0])
        yield GeneratedToken(token, steps, residual)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _nothing(
    graph: nnx.GraphDef[TokenModel], capacity: int, parameters: nnx.State[Any, Any]
) -> _Past:
    """The past of the first token."""
    model = nnx.merge(graph, parameters, copy=True)
    equilibria = model.zero_state(1, _RECENT)
    return _Past(model.initial_memory(1, capacity), jnp.full(_RECENT, -1), equilibria)


@functools.partial(jax.jit, static_argnums=0)
def _read(
    graph: nnx.GraphDef[TokenModel],
    parameters: nnx.State[Any, Any],
    tokens: jax.Array,
    past: _Past,
    warm_start: jax.Array,
    limits: dict[str, jax.Array | None],
) -> tuple[_Past, jax.Array, Stats | None]:
    """Read tokens (length,); return the past after them, the last states, and the solve's stats."""
    model = nnx.merge(graph, parameters, copy=True)
    if past.equilibria is None:
        prediction = model(tokens[None], past.memory)
        return past._replace(memory=prediction.memory), prediction.states[:, -1:], None
    z0 = _start(tokens, past, warm_start)
    prediction = model(tokens[None], past.memory, z0=z0, **limits)
    solved = prediction.equilibrium
    assert solved is not None  # for the type checker: this model has equilibria

    def newest(old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        joined = jnp.concatenate([old, new], axis)
        return jax.lax.slice_in_dim(joined, joined.shape[axis] - _RECENT, None, axis=axis)

    equilibria = jax.tree.map(
        lambda old, new: newest(old, new, 1), past.equilibria, model.reusable(solved)
    )
    after = _Past(prediction.memory, newest(past.tokens, tokens, 0), equilibria)
    return after, prediction.states[:, -1:], solved.solution.stats


@functools.partial(jax.jit, static_argnums=0)
def _read_whole(
    graph: nnx.GraphDef[TokenModel],
    parameters: nnx.State[Any, Any],
    tokens: jax.Array,
    last: jax.Array,
    limits: dict[str, jax.Array | None],
) -> tuple[jax.Array, Stats | None]:
    """The states (1, 1, width) of one position of tokens (length,), and the solve's stats."""
    model = nnx.merge(graph, parameters, copy=True)
    given = {name: limit for name, limit in limits.items() if limit is not None}
    prediction = model(tokens[None], model.initial_memory(1), **given)
    states = jax.lax.dynamic_slice_in_dim(prediction.states, last, 1, axis=1)
    solved = prediction.equilibrium
    return states, None if solved is None else solved.solution.stats


def _start(tokens: jax.Array, past: _Past, warm: jax.Array) -> State:
    """Each token's equilibrium where it last occurred, leaves (1, length, ...); else zero.

    Where it occurred after the same token as now, it counts more than where it did not. What a
    token puts into the layer is the same wherever it stands; the equilibrium of the position
    before, of another token, is hardly nearer than zero, or further away.
    """
    before = jnp.concatenate([past.tokens[-1:], tokens[:-1]])
    known_before = jnp.concatenate([jnp.full(1, -1), past.tokens[:-1]])
    same = past.tokens == tokens[:, None]
    agreeing = jnp.where(same, 1 + (known_before == before[:, None]), 0)
    # of those that agree most the latest: its place among the recent ones is below _RECENT
    chosen = jnp.argmax(agreeing * _RECENT + jnp.arange(_RECENT), axis=1)
    known = same.any(axis=1) & warm

    def start(leaf: jax.Array) -> jax.Array:
        return jnp.where(known.reshape(1, -1, *[1] * (leaf.ndim - 2)), leaf[:, chosen], 0)

    return jax.tree.map(start, past.equilibria)


@functools.partial(jax.jit, static_argnums=0)
def _draw(
    graph: nnx.GraphDef[TokenModel],
    parameters: nnx.State[Any, Any],
    states: jax.Array,
    key: jax.Array,
    vocabulary: jax.Array,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
) -> jax.Array:
    """Draw the token that follows the states (1, 1, width)."""
    model = nnx.merge(graph, parameters, copy=True)
    of_all: jax.Array = model.log_probabilities(states)[0, 0]
    known = jnp.where(jnp.arange(len(of_all)) < vocabulary, of_all, -jnp.inf)
    return draw(known, key, temperature, top_k, top_p)


def _checked(name: str, tokens: Sequence[int], vocabulary: int) -> list[int]:
    checked = [int(token) for token in tokens]
    for token in checked:
        if not 0 <= token < vocabulary:
            raise ValueError(
                f"the {name} holds the token {token}, but the model's vocabulary has {vocabulary} "
                "tokens; leave it out or train on a larger vocabulary."
            )
    return checked


def _checked_prompt(prompt: Sequence[int], vocabulary: int) -> list[int]:
    if len(prompt) == 0:
        raise ValueError("the prompt is empty: give at least one token to continue.")
    return _checked("prompt", prompt, vocabulary)
