"""The task of learning to iterate: trained on short sequences, used on long ones."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from deqjax.models import ConvolutionalNetwork, RecallReasoner
from deqjax.tasks._network import refused_as
from deqjax.tasks.reasoning._config import Iterating, Puzzles, RecallNetwork, Starts
from deqjax.tasks.reasoning._evaluation import each_row_from, from_each_start, scores_of_starts
from deqjax.tasks.reasoning._puzzle_task import Kept, PuzzleTask, made_up
from deqjax.training import ConfigError, Loss


@dataclasses.dataclass(frozen=True)
class RecallTask(PuzzleTask):
    """Fill in the answer of a sequence with a network that iterates; losses are in nats a position.

    Path independence (Anil et al., NeurIPS 2022, arXiv 2211.09961) is what lets such a network go
    on iterating where a problem is longer than those of its training. What makes it so here: starts
    at zero, at random and at the ends of other puzzles (``starts``), and numbers of steps that are
    drawn (the run's ``step_limit``). The Jacobian penalty did harm: what carries a bit any distance
    must not lose it on the way.

    Scores, over puzzles and starts: positions that are right ("cells") and whole sequences
    ("exact"). With several starts "exact_by_residual", of the answer with the smallest residual,
    and "same_answer", the share of puzzles on which all starts agree.

    Attributes:
        network: which network is trained.
        puzzles: what it is trained on.
        starts: where solves of the training start.
        thinking: what an evaluation does.
    """

    network: RecallNetwork = dataclasses.field(default_factory=RecallNetwork)
    puzzles: Puzzles = dataclasses.field(default_factory=lambda: Puzzles(name="prefix_sums"))
    starts: Starts = dataclasses.field(default_factory=Starts)
    thinking: Iterating = dataclasses.field(default_factory=Iterating)

    def check(self) -> None:
        """Raise a ConfigError for fields that do not go together."""
        super().check()
        if self.starts.carried + self.starts.random > 1:
            raise ConfigError(
                f"--task.starts.carried {self.starts.carried} and --task.starts.random "
                f"{self.starts.random} are shares of the rows: together at most 1."
            )

    def counted(self, kept: Kept) -> RecallNetwork:
        """The network with as many tokens as the puzzles have.

        Raises:
            ConfigError: it has others, or the puzzles are boards.
        """
        shape = self.network.shape
        if kept.board[0] != 1:
            raise ConfigError(
                f"--task.puzzles.name {self.puzzles.name} are boards of {kept.board[0]} rows, and "
                "these convolutions go along sequences; take prefix_sums, or a ReasoningTask."
            )
        if shape.tokens not in (None, kept.tokens):
            raise ConfigError(
                f"--task.network.shape.tokens is {shape.tokens}, but the puzzles have "
                f"{kept.tokens}; leave it out, and it is counted."
            )
        shape = dataclasses.replace(shape, tokens=kept.tokens)
        return dataclasses.replace(self.network, shape=shape)

    @refused_as("--task.network")
    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The network, freshly initialized.

        Raises:
            ConfigError: sizes that do not go together.
        """
        network, thinking = self.network, self.thinking
        if not network.solves:
            return ConvolutionalNetwork(network.shape, rngs=rngs)
        return RecallReasoner(
            network.shape, network.solver, steps=thinking.steps, tol=thinking.tol, rngs=rngs
        )

    def example(self, rows: int) -> Any:
        """Random tokens; None as long as their number or that of the positions is not known."""
        tokens, length = self.network.shape.tokens, self._length
        return None if tokens is None or length is None else made_up(rows, tokens, length)

    def memory(self, model: Any, rows: int) -> jax.Array | None:
        """Where the rows' solves ended; zeros are a start like any other."""
        if not self.network.solves:
            return None
        length = self._length
        if length is None:
            raise ConfigError(
                "--task.puzzles.size is not known as long as the puzzles are not there; give it."
            )
        return jnp.zeros((rows, length, self.network.shape.width), jnp.float32)

    @property
    def _length(self) -> int | None:
        """Of the training's sequences; None as long as it is to be looked up."""
        kept: Kept | None = self.__dict__.get("kept")
        return self.puzzles.size if kept is None else kept.board[1]

    def loss(self, model: Any, batch: Any, memory: jax.Array | None = None) -> Loss:
        """Answer sequences: in training mode from mixed starts, in evaluation mode as asked."""
        if isinstance(model, ConvolutionalNetwork):
            return _scored(model(batch["inputs"]), batch["targets"])
        if model.deterministic:
            return self._from_several_starts(model, batch, memory)
        assert memory is not None  # for the type checker: a network that iterates has one
        rows, length = batch["inputs"].shape
        kind_key, start_key = jax.random.split(model.draws())
        kind = jax.random.uniform(kind_key, (rows, 1, 1))
        drawn = model.initial_states(rows, length, start_key)
        fresh = jnp.where(kind < self.starts.carried + self.starts.random, drawn, 0)
        answer = model(batch["inputs"], jnp.where(kind < self.starts.carried, memory, fresh))
        return _scored(answer.logits, batch["targets"])._replace(memory=answer.states)

    def _from_several_starts(self, model: RecallReasoner, batch: Any, memory: Any) -> Loss:
        rows, length = batch["inputs"].shape
        count = self.thinking.starts
        starts = model.initial_states(1, length)
        if count > 1:
            key = jax.random.key(self.thinking.seed)
            starts = jnp.concatenate([starts, model.initial_states(count - 1, length, key)])
        inputs, targets = (from_each_start(batch[name], count) for name in ("inputs", "targets"))
        answer = model(inputs, each_row_from(starts, rows))
        residual = answer.equilibrium.solution.stats.residual
        counts = scores_of_starts(answer.logits, targets, residual, rows)
        losses = _scored(answer.logits, targets).losses.reshape(rows, -1).mean(-1)
        return Loss(losses, counts=counts, memory=memory)


def _scored(logits: jax.Array, targets: jax.Array) -> Loss:
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(-1)
    right = logits.argmax(-1) == targets
    return Loss(nats, counts={"cells": right.mean(-1), "exact": right.all(-1)})
