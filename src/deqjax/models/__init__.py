"""Equilibrium models of the papers, and the explicit baselines they are compared with."""

from deqjax.models._generate import generate
from deqjax.models.transformer_lm import (
    DEQTransformerLM,
    Equilibrium,
    ExplicitTransformerLM,
    LanguageModel,
    Prediction,
    SolverSettings,
    TransformerCell,
    TransformerShape,
)

__all__ = [
    "DEQTransformerLM",
    "Equilibrium",
    "ExplicitTransformerLM",
    "LanguageModel",
    "Prediction",
    "SolverSettings",
    "TransformerCell",
    "TransformerShape",
    "generate",
]
