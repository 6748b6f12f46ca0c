"""The published attractor language model in float64 NumPy, from its equations.

Nothing here is shared with the package: explicit loops over heads and queries, rotations as complex
numbers, derivatives by complex steps (Squire & Trapp, SIAM Rev. 1998), so functions below take
complex states too. To see how far it is from published cases:

    python tests/convert/reference_attractor.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.special import erf

STEP = 1e-30  # of the complex step: there is no cancellation that would bound it from below

BASE = {
    "block_size": 6,
    "vocab_size": 11,
    "padded_vocab_size": 13,
    "n_embd": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 10,
    "bias": False,
    "tie_embeddings": True,
    "norm_eps": 1e-5,
    "mlp_class_name": "BaseMLP",
    "nonlin_name": "ReLU2",
    "qk_norm": True,
    "qk_bias": False,
    "n_backbone_layers": 2,
    "n_fp_blocks": 1,
    "layer_scale_init": 0.75,
    "gamma_max": 0.75,
    "logit_softcap": None,
    "clip_qkv": None,
    "rope_base": 50000,
    "logit_scale": 1.0,
    "embedding_scale": 1.0,
}


def rms(x, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon)


ACTIVATIONS = {
    "ReLU2": lambda x: 0.5 * np.where(x.real > 0, x, 0) ** 2,
    "GELU": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
}


class Reference:
    """A model as its state dict and configuration say."""

    def __init__(self, state, config):
        self.state = {
            name: np.asarray(value, np.float64)
            for name, value in state.items()
            if name != "freqs_cis"
        }
        self.config = config
        self.heads = config["num_attention_heads"]
        self.width = config["n_embd"] // self.heads

    def linear(self, x, name):
        bias = self.state.get(f"{name}.bias", 0.0)
        return x @ self.state[f"{name}.weight"].T + bias

    def placed(self, x):
        """One head of queries or keys (B, T, h), rotated and normalized."""
        turned = np.empty_like(x)
        for t in range(x.shape[1]):
            for i in range(self.width // 2):
                angle = t * self.config["rope_base"] ** (-2 * i / self.width)
                a, b = x[:, t, 2 * i], x[:, t, 2 * i + 1]
                turned[:, t, 2 * i] = a * np.cos(angle) - b * np.sin(angle)
                turned[:, t, 2 * i + 1] = b * np.cos(angle) + a * np.sin(angle)
        return rms(turned, np.finfo(np.float64).eps) if self.config["qk_norm"] else turned

    def attention(self, x, name):
        key_heads = self.config["num_key_value_heads"]
        q, k, v = (self.linear(x, f"{name}.c_{part}") for part in "qkv")
        mixed = np.zeros_like(q)
        for head in range(self.heads):
            group = head // (self.heads // key_heads)
            own = slice(head * self.width, (head + 1) * self.width)
            shared = slice(group * self.width, (group + 1) * self.width)
            queries, keys = self.placed(q[..., own]), self.placed(k[..., shared])
            for t in range(x.shape[1]):
                scores = np.einsum("bd,bsd->bs", queries[:, t], keys[:, : t + 1])
                weights = np.exp(scores / np.sqrt(self.width))
                weights = weights / weights.sum(axis=1, keepdims=True)
                mixed[:, t, own] = np.einsum("bs,bsd->bd", weights, v[:, : t + 1, shared])
        return self.linear(mixed, f"{name}.c_proj")

    def feed_forward(self, x, name):
        hidden = self.linear(x, f"{name}.fc")
        act = ACTIVATIONS[self.config["nonlin_name"]]
        if self.config["mlp_class_name"] == "GatedMLP":
            u, g = np.split(hidden, 2, axis=-1)
            return self.linear(act(u) * g, f"{name}.proj")
        return self.linear(act(hidden), f"{name}.proj")

    def gate(self, name):
        if name not in self.state:
            return 1.0
        return self.config["gamma_max"] / (1 + np.exp(-self.state[name]))

    def block(self, x, name):
        epsilon = self.config["norm_eps"]
        normal = rms(x, epsilon) * self.state[f"{name}.norm_1.weight"]
        x = x + self.gate(f"{name}.raw_gamma_attn") * self.attention(normal, f"{name}.attn")
        normal = rms(x, epsilon) * self.state[f"{name}.norm_2.weight"]
        return x + self.gate(f"{name}.raw_gamma_mlp") * self.feed_forward(normal, f"{name}.mlp")

    def context(self, tokens):
        x = self.config["embedding_scale"] * self.state["transformer.wte.weight"][tokens]
        for i in range(self.config["n_backbone_layers"]):
            x = self.block(x, f"transformer.prelude.{i}")
        return x

    def f(self, y, c):
        x = y + c
        for i in range(self.config["n_fp_blocks"]):
            x = self.block(x, f"transformer.core_block.{i}")
        return x - y

    def fixed_point(self, c):
        """By Newton's method on y - f(y), the Jacobian by complex steps."""
        y = c
        for _ in range(50):
            wrong = self.f(y, c) - y
            if np.linalg.norm(wrong) < 1e-13 * np.linalg.norm(y):
                return y
            jacobian = self.jacobian(y, c)
            y = y + np.linalg.solve(np.eye(y.size) - jacobian, wrong.ravel()).reshape(y.shape)
        raise AssertionError("Newton's method does not converge: choose smaller weights")

    def jacobian(self, y, c):
        columns = []
        for i in range(y.size):
            moved = y.astype(complex)
            moved.flat[i] += 1j * STEP
            columns.append(self.f(moved, c).imag.ravel() / STEP)
        return np.stack(columns, axis=1)

    def logits(self, y):
        table = self.state["lm_head.weight"]
        normal = rms(y, self.config["norm_eps"]) * self.state["transformer.ln_f.weight"]
        logits = self.config["logit_scale"] * normal @ table.T
        cap = self.config["logit_softcap"]
        return logits if cap is None else cap * np.tanh(logits / cap)


def nll(logits, targets):
    largest = logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]
    return normalizer - np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def random_state(config, seed=0):
    """A state dict of such a model."""
    random = np.random.default_rng(seed)
    width, hidden = config["n_embd"], config["intermediate_size"]
    keys = config["num_key_value_heads"] * width // config["num_attention_heads"]
    inner = hidden * (2 if config["mlp_class_name"] == "GatedMLP" else 1)

    def normal(*shape, mean=0.0, scale=0.3):
        return (mean + scale * random.standard_normal(shape)).astype(np.float32)

    state = {"freqs_cis": np.ones((1, config["block_size"], 1, 2, 2), np.float32)}
    state["transformer.wte.weight"] = normal(config["padded_vocab_size"], width)
    sizes = {
        "attn.c_q": (width, width),
        "attn.c_k": (keys, width),
        "attn.c_v": (keys, width),
        "attn.c_proj": (width, width),
        "mlp.fc": (inner, width),
        "mlp.proj": (width, hidden),
    }
    names = [f"transformer.prelude.{i}" for i in range(config["n_backbone_layers"])]
    names += [f"transformer.core_block.{i}" for i in range(config["n_fp_blocks"])]
    for name in names:
        for part, size in sizes.items():
            state[f"{name}.{part}.weight"] = normal(*size)
            if config["bias"]:
                state[f"{name}.{part}.bias"] = normal(size[0])
        for part in ("norm_1", "norm_2"):
            state[f"{name}.{part}.weight"] = normal(width, mean=1.0, scale=0.1)
        if "core_block" in name and config["layer_scale_init"] is not None:
            state[f"{name}.raw_gamma_attn"] = normal(width, mean=-1.0)
            state[f"{name}.raw_gamma_mlp"] = normal(width, mean=-1.0)
    state["transformer.ln_f.weight"] = normal(width, mean=1.0, scale=0.1)
    tied = config["tie_embeddings"]
    state["lm_head.weight"] = (
        state["transformer.wte.weight"] if tied else normal(config["padded_vocab_size"], width)
    )
    return state


def outputs(reference, tokens, y, v, y_star=None):
    """Everything that a case holds."""
    c = reference.context(tokens)
    jacobian = reference.jacobian(y, c)
    y_star = reference.fixed_point(c) if y_star is None else y_star
    logits = reference.logits(y_star)
    return {
        "context": c,
        "f_y": reference.f(y, c),
        "Jv": (jacobian @ v.ravel()).reshape(y.shape),
        "vJ": (v.ravel() @ jacobian).reshape(y.shape),
        "f_y_star": reference.f(y_star, c),
        "y_star": y_star,
        "logits": logits,
        "nll": nll(logits[:, :-1], tokens[:, 1:]),
    }


def write_case(folder, name, config, rows=2):
    """A case for the script of golden cases; returns its arrays."""
    import torch

    state, random = random_state(config), np.random.default_rng(1)
    tokens = random.integers(0, config["vocab_size"], (rows, config["block_size"]))
    y, v = random.standard_normal((2, *tokens.shape, config["n_embd"]))
    found = outputs(Reference(state, config), tokens, y, v)
    arrays = {key: np.asarray(value, np.float32) for key, value in found.items()}
    arrays |= {"tokens": tokens, "y": y.astype(np.float32), "v": v.astype(np.float32)}
    torch.save({key: torch.from_numpy(x) for key, x in state.items()}, folder / f"{name}.pth")
    (folder / f"{name}.json").write_text(json.dumps(config))
    np.savez(folder / f"{name}.npz", **arrays)
    return arrays


def check_against_published(folder):
    """Print how far this reference is from the published implementation's own cases."""
    import torch

    for file in sorted(folder.glob("attractor_*.pth")):
        config = json.loads(file.with_suffix(".json").read_text())
        arrays = np.load(file.with_suffix(".npz"))
        # one row: a Jacobian of all of them would be large
        row = {key: arrays[key][:1] for key in arrays}
        y, v, y_star = (row[name].astype(np.float64) for name in ("y", "v", "y_star"))
        reference = Reference(torch.load(file, weights_only=True), config)
        found = outputs(reference, row["tokens"], y, v, y_star)
        found["y_star"] = found.pop("f_y_star")  # a fixed point: f must give it back
        for name, value in found.items():
            error = np.max(np.abs(value - row[name])) / np.max(np.abs(row[name]))
            print(f"{file.stem} {name} {error:.1e}")


if __name__ == "__main__":
    check_against_published(Path(sys.argv[1]))
