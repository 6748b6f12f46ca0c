"""A convolutional network that recalls its input while it iterates, and the explicit one."""

from deqjax.models.recall._block import RecallBlock, RecallCell, RecallInputs
from deqjax.models.recall._explicit import ConvolutionalNetwork
from deqjax.models.recall._model import Recalled, RecallReasoner, recall_settings
from deqjax.models.recall._shape import RecallShape

__all__ = [
    "ConvolutionalNetwork",
    "RecallBlock",
    "RecallCell",
    "RecallInputs",
    "RecallReasoner",
    "RecallShape",
    "Recalled",
    "recall_settings",
]
