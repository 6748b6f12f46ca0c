"""The configuration of a published attractor language model, checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pydantic
from pydantic import PositiveFloat, PositiveInt, StrictBool

from deqjax._fields import check_fields
from deqjax.convert._errors import ConversionError
from deqjax.convert._options import check_options
from deqjax.models import AttractorShape, SolverSettings, attractor_settings
from deqjax.models.attractor import Nonlinearity

_NONLINEARITIES: dict[str, Nonlinearity] = {"ReLU2": "relu2", "GELU": "gelu", "SiLU": "silu"}


class AttractorConfig(pydantic.BaseModel):
    """Options of a published attractor language model; what is left out has a default.

    How it is solved and trained is a run's, and what else a published file says is passed over.

    Attributes:
        block_size: tokens of a segment.
        vocab_size: number of tokens.
        padded_vocab_size: rows of the tables; None is the number of tokens.
        n_embd: features per position.
        num_attention_heads: heads of queries.
        num_key_value_heads: heads of keys and values; None is as many.
        intermediate_size: features inside a feed-forward.
        bias: whether linear layers have biases.
        tie_embeddings: whether softmax and embedding have the same table.
        norm_eps: of the RMS norms.
        mlp_class_name: whether a feed-forward is gated.
        nonlin_name: its nonlinearity.
        qk_norm: whether queries and keys are normalized.
        qk_bias: must be false: such biases are not known.
        n_backbone_layers: blocks of the prelude.
        n_fp_blocks: blocks of the head.
        layer_scale_init: gates of the head at the start; None is no gates.
        gamma_max: their bound.
        logit_softcap: bound of the logits; None is none.
        clip_qkv: must be null: cutting queries, keys and values is not known.
        rope_base: of the rotary positions.
        logit_scale: factor on the logits.
        embedding_scale: factor on the embedding.
        adjoint_grad_clip: bound of the pulled-back cotangent, per sample; None is none.
    """

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    n_embd: PositiveInt = pydantic.Field(strict=True)
    num_attention_heads: PositiveInt = pydantic.Field(strict=True)
    intermediate_size: PositiveInt = pydantic.Field(strict=True)
    vocab_size: PositiveInt = pydantic.Field(strict=True)
    n_backbone_layers: PositiveInt = pydantic.Field(strict=True)
    n_fp_blocks: PositiveInt = pydantic.Field(1, strict=True)
    block_size: PositiveInt = pydantic.Field(2048, strict=True)
    padded_vocab_size: PositiveInt | None = pydantic.Field(None, strict=True)
    num_key_value_heads: PositiveInt | None = pydantic.Field(None, strict=True)
    bias: StrictBool = False
    tie_embeddings: StrictBool = True
    norm_eps: PositiveFloat = 1e-5
    mlp_class_name: Literal["BaseMLP", "GatedMLP"] = "BaseMLP"
    nonlin_name: Literal["ReLU2", "GELU", "SiLU"] = "ReLU2"
    qk_norm: StrictBool = True
    qk_bias: Literal[False] = False
    layer_scale_init: PositiveFloat | None = 0.75
    gamma_max: PositiveFloat = 0.75
    logit_softcap: PositiveFloat | None = None
    clip_qkv: None = None
    rope_base: PositiveFloat = 50_000.0
    logit_scale: PositiveFloat = 1.0
    embedding_scale: PositiveFloat = 1.0
    adjoint_grad_clip: pydantic.NonNegativeFloat | None = None

    def shape(self) -> AttractorShape:
        """The same as the shape of our model."""
        start = self.layer_scale_init
        return AttractorShape(
            vocabulary=self.vocab_size,
            padded_vocabulary=self.padded_vocab_size,
            length=self.block_size,
            width=self.n_embd,
            heads=self.num_attention_heads,
            key_heads=self.num_key_value_heads,
            hidden=self.intermediate_size,
            prelude_layers=self.n_backbone_layers,
            head_layers=self.n_fp_blocks,
            feed_forward=_NONLINEARITIES[self.nonlin_name],
            gated=self.mlp_class_name == "GatedMLP",
            bias=self.bias,
            query_key_norm=self.qk_norm,
            gate_bound=self.gamma_max,
            # weights replace the start: only whether there are gates is left of it
            gate_start=None if start is None else min(start, self.gamma_max),
            norm_epsilon=self.norm_eps,
            rotary_base=self.rope_base,
            tie_embeddings=self.tie_embeddings,
            logit_softcap=self.logit_softcap,
            logit_scale=self.logit_scale,
            embedding_scale=self.embedding_scale,
        )

    def settings(self) -> SolverSettings:
        """How the model is solved and trained."""
        return dataclasses.replace(attractor_settings(), backward_clip=self.adjoint_grad_clip)


def check_attractor_config(values: Mapping[str, Any]) -> AttractorConfig:
    """The configuration in a JSON file's values.

    Raises:
        ConversionError: one that lists every missing or mistyped option, or says which options
            contradict each other.
    """
    config = check_options(AttractorConfig, values)
    try:
        shape = config.shape()
        check_fields(shape)
        shape.check()
    except ValueError as error:
        raise ConversionError(f"the configuration makes no model: {error}") from error
    return config
