"""A regression on a graph, whose nodes are one coupled state, with Muon.

Command:   deqjax train experiments/own/graph.py
Hardware:  two CPU cores, no GPU
Time:      under a minute
Expected:  validation loss below 0.25 at 21 solver steps
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx

from deqjax import training
from deqjax.nn import DEQ

NODES = 12
RING = np.roll(np.eye(NODES), 1, axis=0)
AVERAGE = ((RING + RING.T) / 2).astype(np.float32)  # of a node's two neighbors


class Cell(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.linear = nnx.Linear(width, width, kernel_init=nnx.initializers.normal(0.1), rngs=rngs)

    def __call__(self, z, u):  # (graphs, nodes, width)
        return jnp.tanh(AVERAGE @ self.linear(z) + u)


class Model(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.inject, self.head = nnx.Linear(1, width, rngs=rngs), nnx.Linear(width, 1, rngs=rngs)
        self.deq = DEQ(Cell(width, rngs), coupled=True, tol=1e-4, max_steps=40)

    def __call__(self, sources):
        return self.head(self.deq(self.inject(sources)).value)


@dataclasses.dataclass(frozen=True)
class Heat(training.Task):
    """Where the heat of some sources settles on a ring of nodes that lose a tenth of it."""

    width: int = 16

    def model(self, rngs):
        return Model(self.width, rngs)

    def data(self, split):
        sources = np.random.default_rng(len(split)).normal(size=(256, NODES, 1))
        settled = np.linalg.solve(np.eye(NODES) - 0.9 * AVERAGE, sources)
        return {"sources": np.float32(sources), "settled": np.float32(settled)}

    def loss(self, model, batch):
        return training.Loss((model(batch["sources"]) - batch["settled"]) ** 2)


def config():
    optimizer = training.OptimizerConfig(kind="muon", learning_rate=0.01)
    return training.RunConfig("graph", task=Heat(), steps=300, optimizer=optimizer)
