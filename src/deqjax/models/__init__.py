"""Equilibrium models of the papers, and the explicit baselines they are compared with."""

from deqjax.models._equilibrium import Equilibrium, Unrolled
from deqjax.models._generate import GeneratedToken, generate, reread
from deqjax.models._image_model import ImageModel, ImagePrediction
from deqjax.models._language_model import Prediction
from deqjax.models._memory import SegmentMemory
from deqjax.models._resdeq import ContractiveCell, ResDEQ, ResidualCell
from deqjax.models._residual_shape import ResidualShape
from deqjax.models._resnet import ResNet
from deqjax.models._shape import LanguageShape, TransformerShape
from deqjax.models._solver_settings import SolverSettings
from deqjax.models._transformer_lm import DEQTransformerLM, TransformerCell
from deqjax.models._transformer_xl import TransformerXL
from deqjax.models._trellisnet_lm import DEQTrellisNetLM, TrellisNetCell, TrellisNetState
from deqjax.models.attractor._cell import AttractorCell
from deqjax.models.attractor._model import AttractorLM, attractor_settings
from deqjax.models.attractor._shape import AttractorShape
from deqjax.models.mdeq._cell import MDEQCell, MDEQInputs
from deqjax.models.mdeq._model import MDEQ
from deqjax.models.mdeq._shape import MDEQShape
from deqjax.models.reasoner._cell import ReasonerCell, ReasonerStates
from deqjax.models.reasoner._explicit import PuzzleTransformer
from deqjax.models.reasoner._layer import ReasonerLayer, SwiGLU
from deqjax.models.reasoner._model import Answer, Reasoner, reasoner_settings
from deqjax.models.reasoner._shape import ReasonerShape
from deqjax.models.recall._block import RecallBlock, RecallCell, RecallInputs
from deqjax.models.recall._explicit import ConvolutionalNetwork
from deqjax.models.recall._model import Recalled, RecallReasoner, recall_settings
from deqjax.models.recall._shape import RecallShape

LanguageModel = AttractorLM | DEQTransformerLM | DEQTrellisNetLM | TransformerXL
"""Any of the models; all map tokens and a memory to a [`Prediction`][deqjax.models.Prediction]."""

__all__ = [
    "MDEQ",
    "Answer",
    "AttractorCell",
    "AttractorLM",
    "AttractorShape",
    "ContractiveCell",
    "ConvolutionalNetwork",
    "DEQTransformerLM",
    "DEQTrellisNetLM",
    "Equilibrium",
    "GeneratedToken",
    "ImageModel",
    "ImagePrediction",
    "LanguageModel",
    "LanguageShape",
    "MDEQCell",
    "MDEQInputs",
    "MDEQShape",
    "Prediction",
    "PuzzleTransformer",
    "Reasoner",
    "ReasonerCell",
    "ReasonerLayer",
    "ReasonerShape",
    "ReasonerStates",
    "RecallBlock",
    "RecallCell",
    "RecallInputs",
    "RecallReasoner",
    "RecallShape",
    "Recalled",
    "ResDEQ",
    "ResNet",
    "ResidualCell",
    "ResidualShape",
    "SegmentMemory",
    "SolverSettings",
    "SwiGLU",
    "TransformerCell",
    "TransformerShape",
    "TransformerXL",
    "TrellisNetCell",
    "TrellisNetState",
    "Unrolled",
    "attractor_settings",
    "generate",
    "reasoner_settings",
    "recall_settings",
    "reread",
]
