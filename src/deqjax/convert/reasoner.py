"""Equilibrium reasoners and tiny recursive models of the published PyTorch implementations.

arXiv 2605.21488, and Jolicoeur-Martineau 2025, arXiv 2510.04871.
"""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from flax import nnx

from deqjax._fields import check_fields
from deqjax.convert._blank import blank
from deqjax.convert._errors import ConversionError
from deqjax.convert._keys import Ledger
from deqjax.convert._reasoner_config import check_reasoner_config
from deqjax.models import Reasoner, ReasonerCell, ReasonerLayer, SolverSettings, SwiGLU


def is_reasoner(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> bool:
    """Whether these are a reasoner's, as far as one of them tells."""
    return "L_cycles" in config or "embed_tokens.embedding_weight" in state


def convert_reasoner(
    state: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    settings: SolverSettings | None = None,
) -> Reasoner:
    """The model that a published state dict describes.

    Every key is used exactly once and every parameter set exactly once.

    Args:
        state: key to array, as [`deqjax.convert.read_state_dict`][] returns it.
        config: the options of [`deqjax.convert.ReasonerConfig`][].
        settings: how the model iterates; None is as published, ``H_cycles`` cycles a pass.

    Returns:
        The model in evaluation mode, where a call is one pass.

    Raises:
        ConversionError: the configuration makes no sense, or a key is missing, unknown, or of
            another shape; all of them are listed.
    """
    options = check_reasoner_config(config)
    try:
        shape, own = options.shape(), settings or options.settings()
        check_fields(shape)
        check_fields(own)
        model = blank(lambda: Reasoner(shape, own, rngs=nnx.Rngs(0)))
    except ValueError as error:
        raise ConversionError(f"the configuration makes no model: {error}") from error
    ledger = Ledger(state)
    ledger.move(model.embedding, "embed_tokens.embedding_weight")
    ledger.move(model.head, "lm_head.weight", transposed=True)
    ledger.move(model.halting.kernel, "q_head.weight", transposed=True)
    assert model.halting.bias is not None  # for the type checker: nnx.Linear is more general
    ledger.move(model.halting.bias, "q_head.bias")
    for index, layer in enumerate(cast(ReasonerCell, model.deq.cell).layers):
        _layer(ledger, layer, f"L_level.layers.{index}")
    ledger.close(model)
    nnx.Module.eval(model)
    return model


def _layer(ledger: Ledger, layer: ReasonerLayer, name: str) -> None:
    if isinstance(layer.mix, SwiGLU):
        _gated(ledger, layer.mix, f"{name}.mlp_t")
    else:
        ledger.move(layer.mix.qkv.kernel, f"{name}.self_attn.qkv_proj.weight", transposed=True)
        ledger.move(layer.mix.out.kernel, f"{name}.self_attn.o_proj.weight", transposed=True)
    _gated(ledger, layer.feed_forward, f"{name}.mlp")


def _gated(ledger: Ledger, part: SwiGLU, name: str) -> None:
    ledger.move(part.up.kernel, f"{name}.gate_up_proj.weight", transposed=True)
    ledger.move(part.down.kernel, f"{name}.down_proj.weight", transposed=True)
