"""DEQ-Transformer language models of the published PyTorch implementation.

Bai, Kolter & Koltun, NeurIPS 2019, arXiv 1909.01377; Bai, Koltun & Kolter, ICML 2021, arXiv
2106.14342; checkpoints as their authors' implementation saves them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from deqjax._fields import check_fields
from deqjax.convert._blank import blank
from deqjax.convert._errors import ConversionError
from deqjax.convert._keys import Ledger
from deqjax.convert._transformer_config import TransformerConfig, check_config
from deqjax.models import DEQTransformerLM, SolverSettings, TransformerCell
from deqjax.nn import AdaptiveEmbedding, AdaptiveSoftmax


def published_settings() -> SolverSettings:
    """The solvers of the published models without Jacobian regularization."""
    return SolverSettings(max_steps=30, backward_method="broyden", backward_max_steps=35)


def convert_deq_transformer(
    state: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    settings: SolverSettings | None = None,
) -> DEQTransformerLM:
    """The model that a published state dict describes.

    Every key is used exactly once and every parameter set exactly once. A tied weight, of which
    the format stores two copies, must be equal in both. Where ``tie_projs`` ties projections but
    ``tie_weights`` no tables, our projections are equal but parameters of their own.

    Args:
        state: key to array, as [`deqjax.convert.read_state_dict`][] returns it.
        config: the options of [`deqjax.convert.TransformerConfig`][].
        settings: how the model finds its equilibrium; None is `published_settings`.

    Returns:
        The model in evaluation mode, its dropout rates 0 (no configuration says them).

    Raises:
        ConversionError: the configuration makes no sense, or a key is missing, unknown, of another
            shape, or differs from the one that it is tied to; all of them are listed.
    """
    options = check_config(config)
    try:
        shape, own = options.shape(), settings or published_settings()
        check_fields(shape)
        model = blank(lambda: DEQTransformerLM(shape, own, rngs=nnx.Rngs(0)))
    except ValueError as error:
        raise ConversionError(f"the configuration makes no model: {error}") from error
    ledger = Ledger(state)
    _embedding(ledger, model.embedding)
    ledger.move(model.injection.kernel, "inject_conv.weight", transposed=True)
    injection_bias, cell = model.injection.bias, model.deq.cell
    assert injection_bias is not None  # for the type checker: nnx.Linear and DEQ are more general
    assert isinstance(cell, TransformerCell)
    ledger.move(injection_bias, "inject_conv.bias")
    ledger.constant("pos_emb.inv_freq", _frequencies(options.d_model))
    _cell(ledger, cell)
    _softmax(ledger, model.softmax, model.embedding, options)
    ledger.close(model)
    nnx.Module.eval(model)
    return model


def _embedding(ledger: Ledger, embedding: AdaptiveEmbedding) -> None:
    for i, table in enumerate(embedding.tables):
        ledger.move(table, f"word_emb.emb_layers.{i}.weight")
    for i, projection in enumerate(embedding.projections):
        if projection is not None:
            ledger.move(projection, *_projection("word_emb.emb_projs", i))


def _cell(ledger: Ledger, cell: TransformerCell) -> None:
    attention, feed_forward = "func.dec_attn", "func.pos_ff"
    ledger.move_weight(cell.qkv, f"{attention}.qkv_net")
    ledger.move_weight(cell.distance, f"{attention}.r_net")
    ledger.move(cell.content_bias, f"{attention}.r_w_bias")
    ledger.move(cell.position_bias, f"{attention}.r_r_bias")
    ledger.move_weight(cell.out, f"{attention}.o_net")
    ledger.move(cell.out_bias, f"{attention}.o_net.bias")
    ledger.move_weight(cell.up, f"{feed_forward}.ff1_net")
    ledger.move(cell.up_bias, f"{feed_forward}.ff1_net.bias")
    ledger.move_weight(cell.down, f"{feed_forward}.ff2_net")
    ledger.move(cell.down_bias, f"{feed_forward}.ff2_net.bias")


def _softmax(
    ledger: Ledger,
    softmax: AdaptiveSoftmax,
    embedding: AdaptiveEmbedding,
    options: TransformerConfig,
) -> None:
    for i, (table, bias) in enumerate(zip(softmax.tables, softmax.biases, strict=True)):
        name = f"crit.out_layers.{i}.weight"
        if options.tie_weights:
            ledger.compare(table, name, option="tie_weights")
        else:
            ledger.move(table, name)
        ledger.move(bias, f"crit.out_layers.{i}.bias")
    for i, projection in enumerate(softmax.projections):
        if projection is None:
            continue
        names = _projection("crit.out_projs", i)
        if options.projection_ties[i]:
            known = embedding.projections[i if options.div_val > 1 else 0]
            assert known is not None  # for the type checker: both ends project or neither
            ledger.compare(known, *names, option=f"tie_projs[{i}]")
            if projection is not known:
                ledger.copy(known, projection)
        else:
            ledger.move(projection, *names)
    if softmax.cluster_weight is not None and softmax.cluster_bias is not None:
        ledger.move(softmax.cluster_weight, "crit.cluster_weight")
        ledger.move(softmax.cluster_bias, "crit.cluster_bias")


def _projection(module: str, index: int) -> tuple[str, str]:
    """Both ways to store a projection: a linear layer's weight, and a parameter by itself."""
    return f"{module}.{index}.weight", f"{module}.{index}"


def _frequencies(width: int) -> np.ndarray:
    """10000^(-2i / width)."""
    return 10000.0 ** (-np.arange(0, width, 2) / width)
