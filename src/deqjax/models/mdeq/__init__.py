"""The multiscale image model, one file for each of its parts.

Whoever builds or converts an MDEQ uses what is listed here. It knows no data and no training.
"""

from deqjax.models.mdeq._cell import Block, MDEQCell, MDEQInputs, NormedConv
from deqjax.models.mdeq._head import Bottleneck, ClassificationHead, SegmentationHead
from deqjax.models.mdeq._model import MDEQ
from deqjax.models.mdeq._shape import MDEQShape
from deqjax.models.mdeq._stem import MDEQStem

__all__ = [
    "MDEQ",
    "Block",
    "Bottleneck",
    "ClassificationHead",
    "MDEQCell",
    "MDEQInputs",
    "MDEQShape",
    "MDEQStem",
    "NormedConv",
    "SegmentationHead",
]
