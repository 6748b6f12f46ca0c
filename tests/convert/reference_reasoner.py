"""The equilibrium reasoner from its equations in PyTorch's float64, which knows nothing of ours."""

import json

import numpy as np
import torch

BASE = {
    "seq_len": 6,
    "vocab_size": 5,
    "H_cycles": 3,
    "L_cycles": 2,
    "H_layers": 0,
    "L_layers": 2,
    "hidden_size": 8,
    "expansion": 4,
    "num_heads": 2,
    "pos_encodings": "rope",
    "board_height": 2,
    "board_width": 3,
    "mlp_t": False,
    "lambda_": 0.9,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
}


def random_state(config, seed=0):
    """Weights by their published names, float32."""
    rng = np.random.default_rng(seed)
    width, tokens = config["hidden_size"], config["vocab_size"]
    shapes = {
        "embed_tokens.embedding_weight": (tokens, width),
        "lm_head.weight": (tokens, width),
        "q_head.weight": (2, width),
        "q_head.bias": (2,),
    }

    def gated(name, outside):
        hidden = -(-round(config["expansion"] * outside * 2 / 3) // 256) * 256
        shapes[f"{name}.gate_up_proj.weight"] = (2 * hidden, outside)
        shapes[f"{name}.down_proj.weight"] = (outside, hidden)

    for index in range(config["L_layers"]):
        layer = f"L_level.layers.{index}"
        if config["mlp_t"]:
            gated(f"{layer}.mlp_t", config["seq_len"])
        else:
            shapes[f"{layer}.self_attn.qkv_proj.weight"] = (3 * width, width)
            shapes[f"{layer}.self_attn.o_proj.weight"] = (width, width)
        gated(f"{layer}.mlp", width)
    return {
        name: (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
    }


class Reference:
    """One model; ``w`` are its weights, which want gradients."""

    def __init__(self, state, config):
        self.config = config
        self.w = {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for name, value in state.items()
        }

    def rms(self, t):
        return t / torch.sqrt((t * t).mean(-1, keepdim=True) + self.config["rms_norm_eps"])

    def gated(self, name, t):
        g, u = (t @ self.w[f"{name}.gate_up_proj.weight"].T).chunk(2, dim=-1)
        return (g * torch.sigmoid(g) * u) @ self.w[f"{name}.down_proj.weight"].T

    def turned(self, x):
        """Queries or keys (N, h) of a head of one row."""
        length, width = x.shape
        at = torch.arange(length)
        match self.config["pos_encodings"]:
            case "none":
                return x
            case "rope":
                parts = [(x, at)]
            case "rope2d":
                columns = self.config["board_width"]
                parts = [(x[:, : width // 2], at // columns), (x[:, width // 2 :], at % columns)]
        result = []
        for part, t in parts:
            h = part.shape[1]
            angle = t[:, None] * self.config["rope_theta"] ** (-torch.arange(0, h, 2) / h)
            angle = torch.cat([angle, angle], dim=1)
            half = torch.cat([-part[:, h // 2 :], part[:, : h // 2]], dim=1)
            result.append(part * torch.cos(angle) + half * torch.sin(angle))
        return torch.cat(result, dim=1)

    def attention(self, name, t):
        heads, width = self.config["num_heads"], self.config["hidden_size"]
        size, rows = width // heads, []
        for row in t:
            q, k, v = (row @ self.w[f"{name}.qkv_proj.weight"].T).split(width, dim=1)
            mixed = []
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                scores = self.turned(q[:, part]) @ self.turned(k[:, part]).T / size**0.5
                mixed.append(torch.softmax(scores, dim=1) @ v[:, part])
            rows.append(torch.cat(mixed, dim=1) @ self.w[f"{name}.o_proj.weight"].T)
        return torch.stack(rows)

    def level(self, z, u):
        t = z + u
        for index in range(self.config["L_layers"]):
            name = f"L_level.layers.{index}"
            if self.config["mlp_t"]:
                across = t.transpose(1, 2)
                t = self.rms(across + self.gated(f"{name}.mlp_t", across)).transpose(1, 2)
            else:
                t = self.rms(t + self.attention(f"{name}.self_attn", t))
            t = self.rms(t + self.gated(f"{name}.mlp", t))
        return (1 - self.config["lambda_"]) * z + self.config["lambda_"] * t

    def cycle(self, inputs, high, low):
        table = self.w["embed_tokens.embedding_weight"]
        x = self.config["hidden_size"] ** 0.5 * table[inputs]
        for _ in range(self.config["L_cycles"]):
            low = self.level(low, high + x)
        return self.level(high, low), low

    def case(self, inputs, labels, high, low):
        """The arrays of a golden case."""
        arrays = {"inputs": inputs, "labels": labels, "z_H": high, "z_L": low}
        with torch.no_grad():
            arrays["one_H"], arrays["one_L"] = self.cycle(inputs, high, low)
            for _ in range(self.config["H_cycles"] - 1):
                high, low = self.cycle(inputs, high, low)
        high, low = self.cycle(inputs, high, low)
        logits = high @ self.w["lm_head.weight"].T
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        arrays |= {"deep_H": high, "deep_L": low, "logits": logits, "loss": loss}
        arrays["q"] = high[:, 0] @ self.w["q_head.weight"].T + self.w["q_head.bias"]
        arrays |= {f"grad.{k}": w.grad for k, w in self.w.items() if not k.startswith("q_head")}
        return {
            name: value.detach().numpy().astype(np.int64 if name in ("inputs", "labels") else "f4")
            for name, value in arrays.items()
        }


def write_case(folder, name, options, rows=2):
    """The three files of a golden case of a model with random weights."""
    config = BASE | options
    state = random_state(config)
    rng = np.random.default_rng(1)
    size = (rows, config["seq_len"])
    tokens = (torch.from_numpy(rng.integers(0, config["vocab_size"], size)) for _ in range(2))
    states = (torch.from_numpy(rng.normal(size=(*size, config["hidden_size"]))) for _ in range(2))
    arrays = Reference(state, config).case(*tokens, *states)
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(json.dumps(config))
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, folder / f"{name}.pth")
