"""MDEQ image models of the published PyTorch implementation.

Bai, Koltun & Kolter, NeurIPS 2020, arXiv 2006.08656; Bai, Koltun & Kolter, ICML 2021, arXiv
2106.14342; checkpoints as their authors' implementation saves them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from deqjax.convert._blank import blank
from deqjax.convert._keys import Ledger, weight_norm_names
from deqjax.convert._mdeq_config import check_mdeq_config
from deqjax.models import MDEQ, MDEQCell, SolverSettings
from deqjax.models.mdeq import (
    Block,
    Bottleneck,
    ClassificationHead,
    MDEQStem,
    NormedConv,
    SegmentationHead,
)
from deqjax.nn import ConvBatchNorm, GroupAffine


def convert_mdeq(
    state: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    settings: SolverSettings | None = None,
) -> MDEQ:
    """The model that a published state dict describes, a classifier's or a segmentation model's.

    Every key is used exactly once and every parameter and running statistic set exactly once. The
    counters of the batch norms are not needed, and neither is the fusion of a single branch, which
    the format stores but nothing applies.

    Args:
        state: key to array, as [`deqjax.convert.read_state_dict`][] returns it.
        config: the options of [`deqjax.convert.MDEQConfig`][].
        settings: how the model finds its equilibrium; None is the defaults. The published solvers
            differ from recipe to recipe, and no checkpoint says them.

    Returns:
        The model in evaluation mode.

    Raises:
        ConversionError: the configuration makes no sense, or a key is missing, unknown or of
            another shape; all of them are listed.
    """
    shape = check_mdeq_config(config).shape()
    model = blank(lambda: MDEQ(shape, settings, rngs=nnx.Rngs(0)))
    ledger, cell = Ledger(state), model.deq.cell
    assert isinstance(cell, MDEQCell)  # for the type checker: DEQ is more general
    _stem(ledger, model.stem)
    _cell(ledger, cell)
    if isinstance(model.head, ClassificationHead):
        _classification(ledger, model.head)
    else:
        _segmentation(ledger, model.head)
    ledger.close(model)
    nnx.Module.eval(model)
    return model


def _stem(ledger: Ledger, stem: MDEQStem) -> None:
    for i, layer in enumerate(stem.layers):
        # the first two stand in a row of convolution, norm and ReLU; later ones have names
        names = (f"{3 * i}", f"{3 * i + 1}") if i < 2 else (f"DS{i + 1}", f"DS{i + 1}-BN")
        _conv_batch_norm(ledger, layer, *(f"downsample.{name}" for name in names))
    if stem.injection is not None:
        _conv_batch_norm(ledger, stem.injection, "stage0.0", "stage0.1")


def _cell(ledger: Ledger, cell: MDEQCell) -> None:
    for i, block in enumerate(cell.blocks):
        _block(ledger, block, f"fullstage.branches.{i}.blocks.0")
    for i, paths in enumerate(cell.fusion):
        for j, path in enumerate(paths):
            name = f"fullstage.fuse_layers.{i}.{j}.net"
            for step, conv in enumerate(path):
                _normed(ledger, conv, name if j > i else f"{name}.{step}")
    for i, conv in enumerate(cell.post):
        _normed(ledger, conv, f"fullstage.post_fuse_layers.{i}")
    if not cell.post:
        _unused_fusion(ledger, cell.shape.channels[0])


def _block(ledger: Ledger, block: Block, name: str) -> None:
    ledger.move_weight(block.expand.weight, f"{name}.conv1")
    _affine(ledger, block.expand.affine, f"{name}.gn1")
    ledger.move_weight(block.contract, f"{name}.conv2")
    _affine(ledger, block.inner_affine, f"{name}.gn2")
    _affine(ledger, block.outer_affine, f"{name}.gn3")


def _unused_fusion(ledger: Ledger, channels: int) -> None:
    name, kernel = "fullstage.post_fuse_layers.0", (channels, channels, 1, 1)
    ledger.ignore(f"{name}.conv.weight", kernel)
    gains, directions = weight_norm_names(f"{name}.conv")
    for gain, direction in zip(gains, directions, strict=True):
        ledger.ignore(direction, kernel)
        ledger.ignore(gain, (channels, 1, 1, 1))
    for part in ("weight", "bias"):
        ledger.ignore(f"{name}.gnorm.{part}", (channels,))


def _classification(ledger: Ledger, head: ClassificationHead) -> None:
    for i, bottleneck in enumerate(head.bottlenecks):
        _bottleneck(ledger, bottleneck, f"incre_modules.{i}.0")
    for i, downsample in enumerate(head.downsamples):
        _conv_batch_norm(ledger, downsample, f"downsamp_modules.{i}.0", f"downsamp_modules.{i}.1")
    _conv_batch_norm(ledger, head.final, "final_layer.0", "final_layer.1")
    bias = head.classifier.bias
    assert bias is not None  # for the type checker: nnx.Linear is more general
    ledger.move(head.classifier.kernel, "classifier.weight", transposed=True)
    ledger.move(bias, "classifier.bias")


def _bottleneck(ledger: Ledger, bottleneck: Bottleneck, name: str) -> None:
    parts = (bottleneck.reduce, bottleneck.mix, bottleneck.expand)
    for i, part in enumerate(parts, start=1):
        _conv_batch_norm(ledger, part, f"{name}.conv{i}", f"{name}.bn{i}")
    if bottleneck.shortcut is not None:
        names = f"{name}.downsample.0", f"{name}.downsample.1"
        _conv_batch_norm(ledger, bottleneck.shortcut, *names)


def _segmentation(ledger: Ledger, head: SegmentationHead) -> None:
    _conv_batch_norm(ledger, head.final, "last_layer.0", "last_layer.1")
    ledger.move_weight(head.classifier, "last_layer.3")
    ledger.move(head.classifier_bias, "last_layer.3.bias")


def _conv_batch_norm(ledger: Ledger, layer: ConvBatchNorm, conv: str, norm: str) -> None:
    ledger.move_weight(layer.weight, conv)
    if layer.bias is not None:
        ledger.move(layer.bias, f"{conv}.bias")
    if layer.norm.scale is not None and layer.norm.bias is not None:
        ledger.move(layer.norm.scale, f"{norm}.weight")
        ledger.move(layer.norm.bias, f"{norm}.bias")
    ledger.move(layer.norm.mean, f"{norm}.running_mean")
    ledger.move(layer.norm.var, f"{norm}.running_var")
    ledger.ignore(f"{norm}.num_batches_tracked", (), "i")


def _normed(ledger: Ledger, conv: NormedConv, name: str) -> None:
    ledger.move_weight(conv.weight, f"{name}.conv")
    _affine(ledger, conv.affine, f"{name}.gnorm")


def _affine(ledger: Ledger, affine: GroupAffine | None, name: str) -> None:
    if affine is not None:
        ledger.move(affine.scale, f"{name}.weight")
        ledger.move(affine.bias, f"{name}.bias")
