"""Equilibrium models of the papers, and the explicit baselines they are compared with."""

from deqjax.models._generate import GeneratedToken, generate, reread
from deqjax.models._language_model import Equilibrium, Prediction
from deqjax.models._memory import SegmentMemory
from deqjax.models._shape import LanguageShape, TransformerShape
from deqjax.models._solver_settings import SolverSettings
from deqjax.models.transformer_lm import DEQTransformerLM, TransformerCell
from deqjax.models.transformer_xl import TransformerXL
from deqjax.models.trellisnet_lm import DEQTrellisNetLM, TrellisNetCell, TrellisNetState

LanguageModel = DEQTransformerLM | DEQTrellisNetLM | TransformerXL
"""Any of the models; all map tokens and a memory to a :class:`Prediction`."""

__all__ = [
    "DEQTransformerLM",
    "DEQTrellisNetLM",
    "Equilibrium",
    "GeneratedToken",
    "LanguageModel",
    "LanguageShape",
    "Prediction",
    "SegmentMemory",
    "SolverSettings",
    "TransformerCell",
    "TransformerShape",
    "TransformerXL",
    "TrellisNetCell",
    "TrellisNetState",
    "generate",
    "reread",
]
