"""Checkpoints of the published PyTorch implementations as models of ours."""

from deqjax._extras import needs

with needs("train", "deqjax.convert"):
    from deqjax.convert._attractor_config import AttractorConfig
    from deqjax.convert._checkpoint import read_state_dict
    from deqjax.convert._errors import ConversionError
    from deqjax.convert._folder import (
        convert_checkpoint,
        load_converted,
        read_model,
        save_converted,
    )
    from deqjax.convert._mdeq_config import MDEQConfig
    from deqjax.convert._reasoner_config import ReasonerConfig
    from deqjax.convert._summary import summary
    from deqjax.convert._transformer_config import TransformerConfig
    from deqjax.convert.attractor import convert_attractor
    from deqjax.convert.deq_transformer import convert_deq_transformer, published_settings
    from deqjax.convert.mdeq import convert_mdeq
    from deqjax.convert.reasoner import convert_reasoner

__all__ = [
    "AttractorConfig",
    "ConversionError",
    "MDEQConfig",
    "ReasonerConfig",
    "TransformerConfig",
    "convert_attractor",
    "convert_checkpoint",
    "convert_deq_transformer",
    "convert_mdeq",
    "convert_reasoner",
    "load_converted",
    "published_settings",
    "read_model",
    "read_state_dict",
    "save_converted",
    "summary",
]
