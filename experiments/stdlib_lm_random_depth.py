"""The model of stdlib_lm.py, trained to be right at any depth: each step's solves stop elsewhere.

Command:   deqjax train experiments/stdlib_lm_random_depth.py
Hardware:  two CPU cores, no GPU
Time:      10 minutes on cores shared with other work (stdlib_lm.py then: 7)
Expected:  2.451 validation bits per byte at 12 steps, 2.487 at 4 (stdlib_lm.py: 2.495 and 2.539)
Data:      as stdlib_lm.py
Next:      deqjax evaluate runs/stdlib_lm_random_depth --depths 1 2 4 8 16 32

Figures of one seed, 400 steps, on Python 3.12's library; runs that differ in rounding end up to 1 %
apart.
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, StepLimitConfig, load_experiment


def config() -> RunConfig:
    """The same run, its step limits drawn from a Poisson distribution cut off at 2 and 12."""
    fixed = load_experiment(Path(__file__).with_name("stdlib_lm.py"))
    limit = StepLimitConfig("poisson", least=2, mean=8)
    return dataclasses.replace(fixed, name="stdlib_lm_random_depth", step_limit=limit)
