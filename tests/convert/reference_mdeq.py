"""The published MDEQ in float64 NumPy, from its equations, for cases of our own.

Nothing here is shared with the package: convolutions are matrix products with the windows of padded
images, derivatives complex steps (Squire & Trapp, SIAM Rev. 1998), so the functions of z below take
complex states too. To see how far it is from published cases:

    python tests/convert/reference_mdeq.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np

STEP = 1e-30  # of the complex step: there is no cancellation that would bound it from below
LAYERS = 3

SMALL = {  # a configuration in which no two sizes are equal that a converter could mix up
    "task": "cls",
    "channels": [2, 4],
    "head": [1, 3],
    "final": 5,
    "down": 0,
    "groups": 2,
    "exp": 3,
    "num_layers": LAYERS,
}


class Reference:
    """A model as its state dict and configuration say."""

    def __init__(self, state, config):
        self.state = {key: np.asarray(value, np.float64) for key, value in state.items()}
        self.config = config
        self.branches = len(config["channels"])
        self.down = config["down"]
        big = config.get("big", 0)
        self.big = [big] * self.branches if isinstance(big, int) else big
        self.kernels = {}

    def kernel(self, name):
        """(out, in, kh, kw), with the normalization carried out."""
        if name not in self.kernels:
            self.kernels[name] = self._kernel(name)
        return self.kernels[name]

    def _kernel(self, name):
        if f"{name}.weight" in self.state:
            return self.state[f"{name}.weight"]
        pairs = zip(self.state[f"{name}.weight_g"], self.state[f"{name}.weight_v"], strict=True)
        return np.stack([gain.item() * v / np.sqrt(np.sum(v**2)) for gain, v in pairs])

    def conv(self, x, name, stride=1):
        """Of x (n, height, width, in), with the bias if the state has one."""
        kernel = self.kernel(name)
        size = kernel.shape[-1]
        pad = size // 2
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        y = 0
        height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
        for row in range(size):
            for column in range(size):
                window = padded[
                    :,
                    row : row + stride * (height - 1) + 1 : stride,
                    column : column + stride * (width - 1) + 1 : stride,
                ]
                y = y + window @ kernel[:, :, row, column].T
        return y + self.state.get(f"{name}.bias", 0)

    def affine(self, x, name):
        return x * self.state.get(f"{name}.weight", 1) + self.state.get(f"{name}.bias", 0)

    def batch_norm(self, x, name):
        mean, variance = (self.state[f"{name}.running_{which}"] for which in ("mean", "var"))
        return self.affine((x - mean) / np.sqrt(variance + 1e-5), name)

    def group_norm(self, x, name, groups):
        parts = []
        for part in np.split(x, groups, axis=-1):
            centered = part - np.mean(part, axis=(1, 2, 3), keepdims=True)
            variance = np.mean(centered**2, axis=(1, 2, 3), keepdims=True)
            parts.append(centered / np.sqrt(variance + 1e-5))
        return self.affine(np.concatenate(parts, axis=-1), name)

    def injection(self, image):
        """Of branch 0."""
        x = image
        names = [
            ("0", "1"),
            ("3", "4"),
            *((f"DS{i}", f"DS{i}-BN") for i in range(3, self.down + 1)),
        ]
        for time, (conv, norm) in enumerate(names, start=1):
            x = self.conv(x, f"downsample.{conv}", 2 if time <= self.down else 1)
            x = relu(self.batch_norm(x, f"downsample.{norm}"))
        if self.down or self.branches > 2:
            x = relu(self.batch_norm(self.conv(x, "stage0.0"), "stage0.1"))
        return x

    def block(self, z, injection, branch):
        name, groups = f"fullstage.branches.{branch}.blocks.0", self.config["groups"]
        y = relu(self.group_norm(self.conv(z, f"{name}.conv1"), f"{name}.gn1", groups))
        y = self.conv(y, f"{name}.conv2") + injection
        y = self.group_norm(y, f"{name}.gn2", groups) + z
        return self.group_norm(relu(y), f"{name}.gn3", groups)

    def path(self, x, source, target):
        name, groups = f"fullstage.fuse_layers.{target}.{source}.net", self.config["groups"]
        if source == target:
            return x
        if source > target:
            x = self.group_norm(self.conv(x, f"{name}.conv"), f"{name}.gnorm", groups)
            times = 2 ** (source - target)
            return np.repeat(np.repeat(x, times, axis=1), times, axis=2)
        for step in range(target - source):
            x = relu(x) if step else x
            x = self.conv(x, f"{name}.{step}.conv", 2)
            x = self.group_norm(x, f"{name}.{step}.gnorm", groups)
        return x

    def cell(self, z, injection):
        """f(z) of the branches z, real or complex."""
        y = [self.block(x, 0 if i else injection, i) for i, x in enumerate(z)]
        if self.branches == 1:
            return y
        result = []
        for i in range(self.branches):
            name = f"fullstage.post_fuse_layers.{i}"
            total = sum(self.path(x, j, i) for j, x in enumerate(y))
            total = self.conv(relu(total), f"{name}.conv")
            result.append(self.group_norm(total, f"{name}.gnorm", self.config["groups"] // 2))
        return result

    def bottleneck(self, x, name):
        y = x
        for i in (1, 2, 3):
            y = self.batch_norm(self.conv(y, f"{name}.conv{i}"), f"{name}.bn{i}")
            y = relu(y) if i < 3 else y
        if f"{name}.downsample.0.weight" in self.state:
            x = self.batch_norm(self.conv(x, f"{name}.downsample.0"), f"{name}.downsample.1")
        return relu(y + x)

    def output(self, z):
        """The logits."""
        if self.config["task"] == "seg":
            height, width = z[0].shape[1:3]
            y = np.concatenate([resize(x, height, width) for x in z], axis=-1)
            y = relu(self.batch_norm(self.conv(y, "last_layer.0"), "last_layer.1"))
            return self.conv(y, "last_layer.3")
        y = self.bottleneck(z[0], "incre_modules.0.0")
        for i in range(1, self.branches):
            name = f"downsamp_modules.{i - 1}"
            down = relu(self.batch_norm(self.conv(y, f"{name}.0", 2), f"{name}.1"))
            y = self.bottleneck(z[i], f"incre_modules.{i}.0") + down
        y = relu(self.batch_norm(self.conv(y, "final_layer.0"), "final_layer.1"))
        weight, bias = (self.state[f"classifier.{part}"] for part in ("weight", "bias"))
        return np.mean(y, axis=(1, 2)) @ weight.T + bias

    def sizes(self, image):
        """The shapes of the branches."""
        size = [length // 2**self.down for length in image.shape[1:3]]
        return [
            (len(image), size[0] // 2**i, size[1] // 2**i, channels)
            for i, channels in enumerate(self.config["channels"])
        ]

    def jacobian(self, z, injection):
        """(batch, n, n), of each sample's f in its own z, the branches one after the other."""
        batch, flat = len(injection), flatten(z)
        size = flat.shape[1]
        columns = []
        for start in range(0, size, 64):  # a few at a time: the windows of all would not fit
            ways = np.eye(size)[start : start + 64, None]
            stepped = (flat[None] + 1j * STEP * ways).reshape(-1, size)
            repeated = np.tile(injection, (len(ways), 1, 1, 1))
            images = self.cell(split(stepped, z), repeated)
            columns.append(flatten(images).imag.reshape(len(ways), batch, size) / STEP)
        return np.moveaxis(np.concatenate(columns), 0, 2)

    def fixed_point(self, zeros, injection):
        """z* from zero by damped steps, its residual below 1e-12; None if they lead nowhere."""
        z = zeros
        for _ in range(250):
            image = self.cell(z, injection)
            gap = np.linalg.norm(flatten(image) - flatten(z))
            if gap < 1e-12 * np.linalg.norm(flatten(image)):
                return z
            z = [(a + b) / 2 for a, b in zip(z, image, strict=True)]
        return None


def relu(x):
    return np.where(x.real > 0, x, 0)


def resize(x, height, width):
    """Bilinear with aligned corners, pixel by pixel."""
    result = np.zeros((len(x), height, width, x.shape[-1]))
    for i in range(height):
        for j in range(width):
            for row, a in _neighbors(i, x.shape[1], height):
                for column, b in _neighbors(j, x.shape[2], width):
                    result[:, i, j] += a * b * x[:, row, column]
    return result


def _neighbors(i, inputs, outputs):
    position = i * (inputs - 1) / (outputs - 1) if outputs > 1 else 0.0
    low = int(position)
    return (low, 1 - (position - low)), (min(low + 1, inputs - 1), position - low)


def flatten(z):
    return np.concatenate([x.reshape(len(x), -1) for x in z], axis=1)


def split(flat, like):
    ends = np.cumsum([x[0].size for x in like])[:-1]
    parts = np.split(flat, ends, axis=1)
    return [part.reshape(-1, *x.shape[1:]) for part, x in zip(parts, like, strict=True)]


def outputs(reference, image, z, v, z_star):
    """What a case stores, branches as lists."""
    injection = reference.injection(image)
    zeros = [np.zeros(size) for size in reference.sizes(image)]
    jacobian, flat = reference.jacobian(z, injection), flatten(v)
    unrolled = zeros
    for _ in range(reference.config["num_layers"]):
        unrolled = reference.cell(unrolled, injection)
    return {
        "injection": injection,
        "f_z": reference.cell(z, injection),
        "Jv": split(np.einsum("bij,bj->bi", jacobian, flat), v),
        "vJ": split(np.einsum("bi,bij->bj", flat, jacobian), v),
        "z_star": z_star,
        "f_z_star": reference.cell(z_star, injection),
        "output": reference.output(z_star),
        "output_unrolled": reference.output(unrolled),
    }


class Weights:
    """Draws a state dict in the published format, key after key, float32."""

    def __init__(self, config, seed):
        self.config, self.rng, self.state = config, np.random.default_rng(seed), {}

    def draw(self, name, *shape, scale=1.0, mean=0.0):
        self.state[name] = (mean + scale * self.rng.standard_normal(shape)).astype(np.float32)

    def conv(self, name, outputs, inputs, size, *, bias=False, normed=False, scale=1.0):
        shape = outputs, inputs, size, size
        scale = scale / (inputs * size**2) ** 0.5
        if normed and self.config.get("wn", True):
            gains = scale * (inputs * size**2) ** 0.5 * (0.75 + 0.5 * self.rng.random(outputs))
            self.state[f"{name}.weight_g"] = gains.reshape(-1, 1, 1, 1).astype(np.float32)
            self.draw(f"{name}.weight_v", *shape)
        else:
            self.draw(f"{name}.weight", *shape, scale=scale)
        if bias:
            self.draw(f"{name}.bias", outputs, scale=0.1)

    def affine(self, name, features, *, mean=1.0, used=True):
        if used:
            self.draw(f"{name}.weight", features, mean=mean, scale=0.1 * mean)
            self.draw(f"{name}.bias", features, scale=0.1)

    def batch_norm(self, name, features, *, affine=True):
        self.affine(name, features, used=affine)
        self.draw(f"{name}.running_mean", features, scale=0.2)
        variance = 0.5 + self.rng.random(features)
        self.state[f"{name}.running_var"] = variance.astype(np.float32)
        self.state[f"{name}.num_batches_tracked"] = np.asarray(3)

    def stem(self):
        width, down = self.config["channels"][0], self.config["down"]
        names = [("0", "1"), ("3", "4"), *((f"DS{i}", f"DS{i}-BN") for i in range(3, down + 1))]
        for i, (conv, norm) in enumerate(names):
            self.conv(f"downsample.{conv}", width, width if i else 3, 3, scale=1.5)
            self.batch_norm(f"downsample.{norm}", width)
        if down or len(self.config["channels"]) > 2:
            self.conv("stage0.0", width, width, 1, scale=1.5)
            self.batch_norm("stage0.1", width)

    def block(self, i, channels, big):
        name, inner = f"fullstage.branches.{i}.blocks.0", self.config["exp"] * channels
        used = self.config.get("block_affine", True)
        self.conv(f"{name}.conv1", inner, channels, 5 if big >= 1 else 3, normed=True)
        self.affine(f"{name}.gn1", inner, used=used)
        # f is contractive where the injection is strong in branch 0 and branch 0 in the others
        sizes = channels, inner, 5 if big >= 2 else 3
        self.conv(f"{name}.conv2", *sizes, normed=True, scale=0.2)
        self.affine(f"{name}.gn2", channels, mean=2.5, used=used)
        self.affine(f"{name}.gn3", channels, mean=0.2 if i else 1.0, used=used)

    def fusion(self, channels):
        used = self.config.get("fuse_affine", True)
        for i, target in enumerate(channels):
            for j, source in enumerate(channels):
                name = f"fullstage.fuse_layers.{i}.{j}.net"
                widths = [target] if j > i else [source] * (i - j - 1) + [target] * (i > j)
                for step, width in enumerate(widths):
                    part = name if j > i else f"{name}.{step}"
                    self.conv(f"{part}.conv", width, source, 1 if j > i else 3)
                    self.affine(f"{part}.gnorm", width, mean=0.15 if j else 1.5, used=used)
        for i, width in enumerate(channels):
            name = f"fullstage.post_fuse_layers.{i}"
            self.conv(f"{name}.conv", width, width, 1, normed=True)
            self.affine(f"{name}.gnorm", width, used=self.config.get("post_affine", False))

    def head(self, channels):
        classes, total = self.config.get("classes", 7), sum(channels)
        if self.config["task"] == "seg":
            self.conv("last_layer.0", total, total, 1, bias=True)
            self.batch_norm("last_layer.1", total)
            self.conv("last_layer.3", classes, total, 1, bias=True)
            return
        head = self.config["head"]
        for i, (inputs, width) in enumerate(zip(channels, head, strict=True)):
            name = f"incre_modules.{i}.0"
            shapes = (width, inputs, 1), (width, width, 3), (4 * width, width, 1)
            for step, shape in enumerate(shapes, start=1):
                self.conv(f"{name}.conv{step}", *shape)
                self.batch_norm(f"{name}.bn{step}", shape[0], affine=False)
            if inputs != 4 * width:
                self.conv(f"{name}.downsample.0", 4 * width, inputs, 1)
                self.batch_norm(f"{name}.downsample.1", 4 * width)
        for i in range(len(head) - 1):
            name = f"downsamp_modules.{i}"
            self.conv(f"{name}.0", 4 * head[i + 1], 4 * head[i], 3, bias=True)
            self.batch_norm(f"{name}.1", 4 * head[i + 1])
        final = self.config["final"]
        self.conv("final_layer.0", final, 4 * head[-1], 1, bias=True)
        self.batch_norm("final_layer.1", final)
        self.draw("classifier.weight", classes, final, scale=final**-0.5)
        self.draw("classifier.bias", classes, scale=0.1)


def random_state(config, seed=0):
    """A state dict with the keys of the published format, float32."""
    weights, channels = Weights(config, seed), config["channels"]
    big = config.get("big", 0)
    weights.stem()
    for i, width in enumerate(channels):
        weights.block(i, width, big if isinstance(big, int) else big[i])
    # of a single branch the format stores what follows a fusion too, though nothing applies it
    weights.fusion(channels)
    weights.head(channels)
    return weights.state


def drawn(config, image, seed=0):
    """Weights whose fixed point for an image attracts damped steps, and that fixed point."""
    while True:
        reference = Reference(state := random_state(config, seed), config)
        zeros = [np.zeros(size) for size in reference.sizes(image)]
        z_star = reference.fixed_point(zeros, reference.injection(image))
        if z_star is not None:
            return state, z_star
        seed += 1


def write_case(folder, name, config, image_size, seed=0, batch=2):
    """Write the three files of a case; returns its arrays."""
    import torch

    rng = np.random.default_rng(seed + 1000)
    image = rng.standard_normal((batch, *image_size, 3))
    state, z_star = drawn(config, image, seed)
    reference = Reference(state, config)
    z, v = ([rng.standard_normal(size) for size in reference.sizes(image)] for _ in "zv")
    found = outputs(reference, image, z, v, z_star) | {"image": image, "z": z, "v": v}
    del found["f_z_star"]
    arrays = {}
    for key, value in found.items():
        parts = (
            {f"{key}_{i}": x for i, x in enumerate(value)}
            if isinstance(value, list)
            else {key: value}
        )
        arrays |= {part: x.astype(np.float32) for part, x in parts.items()}
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    torch.save(tensors, folder / f"{name}.pth")
    (folder / f"{name}.json").write_text(json.dumps(config))
    np.savez(folder / f"{name}.npz", **arrays)
    return arrays


def distance(ours, theirs):
    return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


def check_against_published(folder):
    """Print how far this reference is from the published implementation's own cases."""
    import torch

    for file in sorted(folder.glob("mdeq_*.pth")):
        config = json.loads(file.with_suffix(".json").read_text())
        arrays = np.load(file.with_suffix(".npz"))
        reference = Reference(torch.load(file, weights_only=True), config)

        def branches(name, arrays=arrays, count=reference.branches):
            return [arrays[f"{name}_{i}"].astype(np.float64) for i in range(count)]

        found = outputs(reference, arrays["image"], *map(branches, ("z", "v", "z_star")))
        found["z_star"] = found.pop("f_z_star")  # a fixed point: f must give it back
        errors = {
            name: distance(flatten(value), flatten(branches(name)))
            if isinstance(value, list)
            else distance(value, arrays[name])
            for name, value in found.items()
        }
        print(file.stem, *(f"{name} {e:.1e}" for name, e in errors.items()))


if __name__ == "__main__":
    check_against_published(Path(sys.argv[1]))
