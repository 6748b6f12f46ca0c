"""A reversible DEQ-Transformer on Shakespeare: exact gradients of a few coupled steps.

Command:   deqjax train experiments/language/tinyshakespeare_reversible.py \
               --task.text.file tinyshakespeare.txt
Hardware:  two CPU cores, no GPU
Time:      about 25 minutes
Expected:  see experiments/results/tinyshakespeare.json
Data:      as tinyshakespeare.py

McCallum et al. 2025, arXiv 2509.12917. Undoing a step multiplies rounding, so float32 can undo few
of them: the penalty keeps the layer contractive enough to converge in these, and the damping lies
between that of the paper (0.8: fewer steps, each of which loses more) and 0.5.
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """The same network, iterated by the coupled steps and differentiated by undoing them."""
    deq = load_experiment(Path(__file__).with_name("tinyshakespeare.py"))
    network = deq.task.network
    solver = dataclasses.replace(
        network.solver,
        method="reversible",
        adjoint="reversible",
        damping=0.65,
        max_steps=7,
        backward_tol=1e-2,
    )
    network = dataclasses.replace(network, solver=solver)
    return dataclasses.replace(
        deq,
        name="tinyshakespeare_reversible",
        task=dataclasses.replace(deq.task, network=network),
        penalty=dataclasses.replace(deq.penalty, weight=0.4),
    )
