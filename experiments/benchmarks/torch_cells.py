"""The cells of `cells.py` as PyTorch functions of one packed state, for TorchDEQ.

PyTorch must be installed; nothing here runs at import but its own import.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch.nn import functional

from cells import Cell


class Twin(NamedTuple):
    """A cell in PyTorch, with the same weights.

    Attributes:
        f: ``f(z) -> z'`` on z0's shape; images are channels first.
        z0: float32 tensor; several leaves are packed as (batch, features).
        to_numpy: from such a state to the pytree of the JAX cell.
    """

    f: Callable[[torch.Tensor], torch.Tensor]
    z0: torch.Tensor
    to_numpy: Callable[[torch.Tensor], Any]


def twin(cell: Cell, device: str = "cpu") -> Twin:
    """The same function with the same weights on a PyTorch device."""
    weights = {name: _tensor(value, device) for name, value in cell.weights.items()}
    build = {"matmul": _matmul, "transformer": _transformer, "mdeq": _mdeq}[cell.name]
    return build(cell, weights, _tensor(cell.inputs, device))


def _tensor(value: jax.Array, device: str) -> torch.Tensor:
    return torch.tensor(np.asarray(value), device=device)


def _plain(cell: Cell, f: Callable[..., torch.Tensor], inputs: torch.Tensor) -> Twin:
    z0 = torch.zeros(cell.z0.shape, device=inputs.device)
    return Twin(f, z0, lambda z: z.cpu().numpy())


def _matmul(cell: Cell, weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> Twin:
    def f(z):
        return torch.tanh(torch.addmm(inputs, z, weights["weight"]))

    return _plain(cell, f, inputs)


def _transformer(cell: Cell, weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> Twin:
    batch, length, width = cell.z0.shape

    def split(x):
        return x.view(batch, length, cell.settings["heads"], -1).transpose(1, 2)

    def f(z):
        q, k, v = (split(p) for p in (z @ weights["qkv"] + inputs).chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        h = functional.layer_norm(z + attended @ weights["out"], (width,), eps=1e-5)
        update = torch.relu(h @ weights["up"]) @ weights["down"]
        return functional.layer_norm(h + update, (width,), eps=1e-5)

    return _plain(cell, f, inputs)


def _mdeq(cell: Cell, weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> Twin:
    groups = cell.settings["groups"]
    kernels = {n: w.permute(3, 2, 0, 1).contiguous() for n, w in weights.items() if w.dim() == 4}
    shapes = [_channels_first(leaf.shape) for leaf in (cell.z0["fine"], cell.z0["coarse"])]
    sizes = [int(np.prod(shape[1:])) for shape in shapes]
    injection = inputs.permute(0, 3, 1, 2).contiguous()

    def convolve(x, name, stride=1):
        kernel = kernels[name]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(x, gain=None):
        return functional.group_norm(x, groups, None if gain is None else weights[gain])

    def block(z, branch, injected):
        y = torch.relu(norm(convolve(z, f"{branch}_1")))
        y = norm(convolve(y, f"{branch}_2") + injected, f"{branch}_gain") + z
        return norm(torch.relu(y))

    def post(y, branch):
        return functional.group_norm(convolve(torch.relu(y), f"{branch}_post"), groups // 2)

    def unpack(packed):
        parts = packed.split(sizes, dim=1)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def f(packed):
        fine, coarse = unpack(packed)
        fine, coarse = block(fine, "fine", injection), block(coarse, "coarse", 0)
        up = norm(convolve(coarse, "up"), "up_gain")
        down = norm(convolve(fine, "down", stride=2), "down_gain")
        fused = (
            post(fine + functional.interpolate(up, scale_factor=2, mode="nearest"), "fine"),
            post(coarse + down, "coarse"),
        )
        return torch.cat([leaf.flatten(1) for leaf in fused], dim=1)

    def to_numpy(packed):
        leaves = [leaf.permute(0, 2, 3, 1).cpu().numpy() for leaf in unpack(packed)]
        return dict(zip(("fine", "coarse"), leaves, strict=True))

    z0 = torch.zeros((shapes[0][0], sum(sizes)), device=inputs.device)
    return Twin(f, z0, to_numpy)


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    batch, height, width, channels = shape
    return (batch, channels, height, width)
