"""The configuration of a published DEQ-Transformer, checked."""

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import PositiveInt, StrictBool, StrictInt

from deqjax.convert._errors import ConversionError
from deqjax.convert._options import check_options
from deqjax.models import TransformerShape

_EVERYTHING = 1000  # what the published code takes for a horizon of 0


class TransformerConfig(pydantic.BaseModel):
    """Options of the published DEQ-Transformer; what is left out has the published default.

    Attributes:
        vocab_size: number of tokens.
        d_model: features per position; num_heads * d_head.
        num_heads: attention heads.
        d_head: features per head; None is d_model / num_heads.
        d_inner: features inside the feed-forward.
        d_embed: features of the first embedding table; None is d_model.
        cutoffs: first token of each tail cluster, without the vocabulary's size at the end.
        div_val: cluster i's table is d_embed // div_val^i wide.
        tie_weights: whether softmax and embedding have the same tables.
        tie_projs: for each cluster, whether they have the same projection; those left out are not.
        pre_layer_norm: whether layer norm comes before attention and feed-forward.
        weight_norm: whether the cell's matrices are normalized.
        target_length: tokens of a segment.
        memory_length: positions kept from the segments before.
        local_size: how far a query sees, itself included; 0 or None is 1000.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    vocab_size: PositiveInt = pydantic.Field(strict=True)
    d_model: PositiveInt = pydantic.Field(strict=True)
    num_heads: PositiveInt = pydantic.Field(strict=True)
    d_inner: PositiveInt = pydantic.Field(strict=True)
    d_head: PositiveInt | None = pydantic.Field(None, strict=True)
    d_embed: PositiveInt | None = pydantic.Field(None, strict=True)
    cutoffs: tuple[StrictInt, ...] = ()
    div_val: PositiveInt = pydantic.Field(1, strict=True)
    tie_weights: StrictBool = True
    tie_projs: tuple[StrictBool, ...] = (False,)
    pre_layer_norm: StrictBool = False
    weight_norm: StrictBool = False
    target_length: PositiveInt = pydantic.Field(150, strict=True)
    memory_length: pydantic.NonNegativeInt = pydantic.Field(150, strict=True)
    local_size: pydantic.NonNegativeInt | None = pydantic.Field(None, strict=True)

    @property
    def projection_ties(self) -> tuple[bool, ...]:
        """One entry per cluster: does the softmax have the embedding's projection?"""
        clusters = len(self.cutoffs) + 1
        projects = self.div_val > 1 or self.d_embed not in (None, self.d_model)
        given = self.tie_projs if projects else ()
        return (*given, *[False] * clusters)[:clusters]

    def shape(self) -> TransformerShape:
        """The same as the shape of our model."""
        return TransformerShape(
            vocabulary=self.vocab_size,
            length=self.target_length,
            memory_length=self.memory_length,
            width=self.d_model,
            embedding_width=self.d_embed,
            cutoffs=self.cutoffs,
            divisor=self.div_val,
            tie_weights=self.tie_weights,
            # our softmax shares projections only where it shares tables; kept apart they are equal
            tie_projections=self.projection_ties if self.tie_weights else (),
            weight_norm=self.weight_norm,
            heads=self.num_heads,
            hidden=self.d_inner,
            pre_layer_norm=self.pre_layer_norm,
            horizon=self.local_size or _EVERYTHING,
            residual_injection=False,
        )


def check_config(values: Mapping[str, Any]) -> TransformerConfig:
    """The configuration in a JSON file's values.

    Raises:
        ConversionError: one that lists every missing, unknown or mistyped option, or says which
            options contradict each other.
    """
    config = check_options(TransformerConfig, values)
    heads, d_head = config.num_heads, config.d_head
    if d_head is None and config.d_model % heads:
        raise ConversionError(
            f"d_model {config.d_model} is no multiple of num_heads {heads}; put them right."
        )
    if d_head is not None and config.d_model != heads * d_head:
        raise ConversionError(
            f"d_model {config.d_model} must be num_heads * d_head, but {heads} * {d_head} is "
            f"{heads * d_head}; put the three right."
        )
    if any(config.tie_projs[len(config.cutoffs) + 1 :]):
        raise ConversionError(
            f"tie_projs has {len(config.tie_projs)} entries for {len(config.cutoffs) + 1} "
            "clusters; give one entry per cluster."
        )
    return config
