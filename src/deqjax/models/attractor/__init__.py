"""The attractor language model, one file for each of its parts.

Whoever builds or converts one uses what is listed here. It knows no data and no training.
"""

from deqjax.models.attractor._block import Block, BlockInputs, Linear, Positions
from deqjax.models.attractor._cell import AttractorCell, AttractorInputs
from deqjax.models.attractor._model import AttractorLM, attractor_settings
from deqjax.models.attractor._shape import AttractorShape, Nonlinearity

__all__ = [
    "AttractorCell",
    "AttractorInputs",
    "AttractorLM",
    "AttractorShape",
    "Block",
    "BlockInputs",
    "Linear",
    "Nonlinearity",
    "Positions",
    "attractor_settings",
]
