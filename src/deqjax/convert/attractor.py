"""Attractor language models of the published PyTorch implementation, arXiv 2605.12466."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from deqjax.convert._attractor_config import check_attractor_config
from deqjax.convert._blank import blank
from deqjax.convert._keys import Ledger
from deqjax.models import AttractorCell, AttractorLM, SolverSettings
from deqjax.models.attractor import Block, Linear

_GATE = " (second half)"


def convert_attractor(
    state: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    settings: SolverSettings | None = None,
) -> AttractorLM:
    """The model that a published state dict describes.

    Every key is used exactly once and every parameter set exactly once. A tied table, of which the
    format stores two copies, must be equal in both; safetensors leaves the second out. The cosines
    and sines of the positions (`freqs_cis`) are not needed.

    Args:
        state: key to array, as [`deqjax.convert.read_state_dict`][] returns it.
        config: the options of [`deqjax.convert.AttractorConfig`][].
        settings: how the model finds its equilibrium; None is the published way.

    Returns:
        The model in evaluation mode.

    Raises:
        ConversionError: the configuration makes no sense, or a key is missing, unknown, of another
            shape, or differs from the one that it is tied to; all of them are listed.
    """
    options = check_attractor_config(config)
    shape, own = options.shape(), settings or options.settings()
    model = blank(lambda: AttractorLM(shape, own, rngs=nnx.Rngs(0)))
    ledger = Ledger(_by_halves(state) if shape.gated else state)
    ledger.move(model.embedding, "transformer.wte.weight")
    for i, block in enumerate(model.prelude):
        _block(ledger, block, f"transformer.prelude.{i}")
    assert model.deq is not None  # for the type checker: a published model has a head
    assert isinstance(model.deq.cell, AttractorCell)
    for i, block in enumerate(model.deq.cell.blocks):
        _block(ledger, block, f"transformer.core_block.{i}")
    ledger.move(model.final_scale, "transformer.ln_f.weight")
    if model.softmax is not None:
        ledger.move(model.softmax, "lm_head.weight")
    elif "lm_head.weight" in state:
        ledger.compare(model.embedding, "lm_head.weight", option="tie_embeddings")
    if "freqs_cis" in state:
        ledger.ignore("freqs_cis", state["freqs_cis"].shape, state["freqs_cis"].dtype.kind)
    ledger.close(model)
    nnx.Module.eval(model)
    return model


def is_attractor(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> bool:
    """Whether these are of an attractor language model."""
    return "n_backbone_layers" in config or any(
        key.startswith("transformer.core_block.") for key in state
    )


def _by_halves(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With the second half of each gated feed-forward's matrix under a name of its own."""
    divided: dict[str, np.ndarray] = {}
    for key, array in state.items():
        path, _, part = key.rpartition(".")
        if path.endswith(".mlp.fc") and len(array) % 2 == 0:
            divided[key], divided[f"{path}{_GATE}.{part}"] = np.split(array, 2)
        else:
            divided[key] = array
    return divided


def _block(ledger: Ledger, block: Block, name: str) -> None:
    ledger.move(block.attention_scale, f"{name}.norm_1.weight")
    _linear(ledger, block.query, f"{name}.attn.c_q")
    _linear(ledger, block.key, f"{name}.attn.c_k")
    _linear(ledger, block.value, f"{name}.attn.c_v")
    _linear(ledger, block.out, f"{name}.attn.c_proj")
    ledger.move(block.feed_scale, f"{name}.norm_2.weight")
    _linear(ledger, block.up, f"{name}.mlp.fc")
    if block.gate is not None:
        _linear(ledger, block.gate, f"{name}.mlp.fc{_GATE}")
    _linear(ledger, block.down, f"{name}.mlp.proj")
    if block.attention_gate is not None and block.feed_gate is not None:
        ledger.move(block.attention_gate, f"{name}.raw_gamma_attn")
        ledger.move(block.feed_gate, f"{name}.raw_gamma_mlp")


def _linear(ledger: Ledger, linear: Linear, name: str) -> None:
    ledger.move(linear.weight.kernel, f"{name}.weight", transposed=True)
    if linear.bias is not None:
        ledger.move(linear.bias, f"{name}.bias")
