"""The equilibrium reasoner, one file for each of its parts, and the explicit network beside it.

It knows no puzzles and no training.
"""

from deqjax.models.reasoner._cell import ReasonerCell, ReasonerStates
from deqjax.models.reasoner._explicit import PuzzleTransformer
from deqjax.models.reasoner._layer import ReasonerLayer, SwiGLU
from deqjax.models.reasoner._model import Answer, Reasoner, reasoner_settings
from deqjax.models.reasoner._shape import ReasonerShape

__all__ = [
    "Answer",
    "PuzzleTransformer",
    "Reasoner",
    "ReasonerCell",
    "ReasonerLayer",
    "ReasonerShape",
    "ReasonerStates",
    "SwiGLU",
    "reasoner_settings",
]
