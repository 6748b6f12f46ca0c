"""A reversible DEQ-Transformer on WikiText-103: exact gradients of a few coupled steps.

Command:   deqjax train experiments/language/wikitext103_reversible.py
Hardware:  as wikitext103.py
Time:      300,000 steps, days; not run by us
Expected:  unknown; the sizes are those of wikitext103.py, the iteration is that of McCallum et al.
           2025, arXiv 2509.12917, with a damping that float32 can undo for all of its steps
Data:      as wikitext103.py
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """Six coupled steps, twelve evaluations of the layer."""
    plain = load_experiment(Path(__file__).with_name("wikitext103.py"))
    network = plain.task.network
    solver = dataclasses.replace(
        network.solver,
        method="reversible",
        adjoint="reversible",
        damping=0.5,
        max_steps=6,
        backward_tol=1e-2,
    )
    network = dataclasses.replace(network, solver=solver)
    return dataclasses.replace(
        plain,
        name="wikitext103_reversible",
        task=dataclasses.replace(plain.task, network=network),
    )
