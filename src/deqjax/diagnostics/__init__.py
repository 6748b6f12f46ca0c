"""Measurements of a model as it is: what depth buys, and how good each rule's gradient is."""

from deqjax.diagnostics._check_gradient import (
    GradientCheck,
    RuleCheck,
    check_gradient,
    default_rules,
)
from deqjax.diagnostics._depth_sweep import DepthSweep, depth_sweep
from deqjax.diagnostics._float64_truth import TruthError

__all__ = [
    "DepthSweep",
    "GradientCheck",
    "RuleCheck",
    "TruthError",
    "check_gradient",
    "default_rules",
    "depth_sweep",
]
