"""The published DEQ-Transformer in float64 NumPy, from its equations, for cases of our own.

Nothing here is shared with the package: explicit loops over query and key, distances instead of a
shift, a softmax over the whole vocabulary, derivatives by complex steps (Squire & Trapp, SIAM Rev.
1998), so functions below take complex states too. To see how far it is from published cases:

    python tests/convert/reference_transformer.py FOLDER
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np

STEP = 1e-30  # of the complex step: there is no cancellation that would bound it from below

SMALL = {  # a configuration in which no two sizes are equal that a converter could mix up
    "vocab_size": 13,
    "d_model": 8,
    "num_heads": 2,
    "d_inner": 6,
    "cutoffs": [4, 9],
    "div_val": 2,
    "tie_projs": [False, True, True],
    "weight_norm": True,
    "target_length": 3,
    "memory_length": 3,
}


class Reference:
    """A model as its state dict and configuration say."""

    def __init__(self, state, config):
        self.state = {key: np.asarray(value, np.float64) for key, value in state.items()}
        self.config = config
        self.width = config["d_model"]
        self.embed_width = config.get("d_embed") or self.width
        self.cutoffs = list(config.get("cutoffs", []))
        self.divisor = config.get("div_val", 1)
        self.bounds = [0, *self.cutoffs, config["vocab_size"]]
        self.pre = config.get("pre_layer_norm", False)
        self.horizon = config.get("local_size") or 1000

    def matrix(self, name):
        """(out, in), with the normalization carried out."""
        if f"{name}.weight" in self.state:
            whole = self.state[f"{name}.weight"]
            return whole.reshape(whole.shape[:2])
        gains, directions = self.state[f"{name}.weight_g"], self.state[f"{name}.weight_v"]
        rows = [
            gain.item() * row.ravel() / np.sqrt(np.sum(row.ravel() ** 2))
            for gain, row in zip(gains, directions, strict=True)
        ]
        return np.stack(rows)

    def projection(self, module, index):
        """(D, d_i), or None where there is none."""
        for key in (f"{module}.{index}.weight", f"{module}.{index}"):
            if key in self.state:
                return self.state[key]
        return None

    def embedding(self, token):
        if self.divisor == 1:
            vector = self.state["word_emb.emb_layers.0.weight"][token]
            projection = self.projection("word_emb.emb_projs", 0)
            return np.sqrt(self.width) * (vector if projection is None else projection @ vector)
        cluster = sum(token >= cutoff for cutoff in self.cutoffs)
        row = token - self.bounds[cluster]
        vector = self.state[f"word_emb.emb_layers.{cluster}.weight"][row]
        return np.sqrt(self.width) * self.projection("word_emb.emb_projs", cluster) @ vector

    def injection(self, tokens):
        embedded = np.stack([[self.embedding(token) for token in row] for row in tokens])
        return embedded @ self.matrix("inject_conv").T + self.state["inject_conv.bias"]

    def position(self, distance):
        frequencies = np.array([10000 ** (-2 * i / self.width) for i in range(self.width // 2)])
        return np.concatenate([np.sin(distance * frequencies), np.cos(distance * frequencies)])

    def attention(self, c, u, length):
        """Of the last positions of c, after the memory's: (n, length, D)."""
        n, keys, _ = c.shape
        heads = self.config["num_heads"]
        parts = np.split(c @ self.matrix("func.dec_attn.qkv_net").T + u, 3, axis=-1)
        q, k, v = (part.reshape(n, keys, heads, -1) for part in parts)
        r_matrix = self.matrix("func.dec_attn.r_net")
        content = self.state["func.dec_attn.r_w_bias"]
        place = self.state["func.dec_attn.r_r_bias"]
        memory, mixed = keys - length, np.zeros((n, length, heads, q.shape[-1]), c.dtype)
        for i in range(length):
            own = q[:, memory + i]
            seen = [j for j in range(keys) if i + memory - self.horizon < j <= i + memory]
            scores = []
            for j in seen:
                r = (r_matrix @ self.position(i + memory - j)).reshape(heads, -1)
                score = np.sum((own + content) * k[:, j], -1) + np.sum((own + place) * r, -1)
                scores.append(score / np.sqrt(q.shape[-1]))
            scores = np.stack(scores)
            powers = np.exp(scores - np.max(scores.real, axis=0))
            for share, j in zip(powers / np.sum(powers, axis=0), seen, strict=True):
                mixed[:, i] += share[..., None] * v[:, j]
        joined = mixed.reshape(n, length, self.width)
        return (
            joined @ self.matrix("func.dec_attn.o_net").T + self.state["func.dec_attn.o_net.bias"]
        )

    def feed_forward(self, h):
        inner = h @ self.matrix("func.pos_ff.ff1_net").T + self.state["func.pos_ff.ff1_net.bias"]
        inner = np.where(inner.real > 0, inner, 0)
        return inner @ self.matrix("func.pos_ff.ff2_net").T + self.state["func.pos_ff.ff2_net.bias"]

    def cell(self, z, u, memory_z, memory_u):
        """f(z) of z (n, L, D), real or complex."""
        c, u = np.concatenate([memory_z, z], 1), np.concatenate([memory_u, u], 1)
        a = self.attention(layer_norm(c) if self.pre else c, u, z.shape[1])
        if self.pre:
            normalized = layer_norm(z + a)
            return normalized + self.feed_forward(normalized)
        h = layer_norm(z + a)
        return layer_norm(h + self.feed_forward(h))

    def log_probabilities(self, h):
        """(..., V) of h (..., D)."""
        tables = len(self.bounds) - 1 if self.divisor > 1 else 1

        def logits(cluster):
            index = cluster if tables > 1 else 0
            weight = self.state[f"crit.out_layers.{index}.weight"]
            bias = self.state[f"crit.out_layers.{index}.bias"]
            if tables == 1:
                start, end = self.bounds[cluster : cluster + 2]
                weight, bias = weight[start:end], bias[start:end]
            if cluster == 0 and self.cutoffs:
                weight = np.concatenate([weight, self.state["crit.cluster_weight"]])
                bias = np.concatenate([bias, self.state["crit.cluster_bias"]])
            projection = self.projection("crit.out_projs", cluster)
            return (h if projection is None else h @ projection) @ weight.T + bias

        head = log_softmax(logits(0))
        parts = [head[..., : self.bounds[1]]]
        for cluster in range(1, len(self.bounds) - 1):
            parts.append(head[..., -cluster, None] + log_softmax(logits(cluster)))
        return np.concatenate(parts, -1)

    def jacobian(self, z, *operands):
        """(batch, L D, L D), of each sample's f in its own z."""
        batch, size = len(z), z[0].size
        ways = np.eye(size).reshape(size, 1, *z.shape[1:])
        stepped = (z[None] + 1j * STEP * ways).reshape(-1, *z.shape[1:])
        repeated = [np.tile(x, (size, 1, 1)) for x in operands]
        columns = self.cell(stepped, *repeated).imag / STEP
        return np.moveaxis(columns.reshape(size, batch, -1), 0, 2)

    def fixed_point(self, u, memory_z, memory_u):
        """z* from zero, by damped steps and then Newton's method; its residual is below 1e-11."""
        z = np.zeros((*u.shape[:2], self.width))
        operands = (u, memory_z, memory_u)
        for _ in range(60):
            z = (z + self.cell(z, *operands)) / 2
        for _ in range(8):
            gap = (self.cell(z, *operands) - z).reshape(len(z), -1, 1)
            system = np.eye(gap.shape[1]) - self.jacobian(z, *operands)
            z = z + np.linalg.solve(system, gap).reshape(z.shape)
        image = self.cell(z, *operands)
        assert np.linalg.norm(image - z) < 1e-11 * np.linalg.norm(image)
        return z


def layer_norm(x):
    centered = x - np.mean(x, -1, keepdims=True)
    return centered / np.sqrt(np.mean(centered**2, -1, keepdims=True) + 1e-5)


def log_softmax(x):
    shifted = x - np.max(x, -1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), -1, keepdims=True))


def segment_outputs(reference, tokens, z, v, memory_z, memory_u, z_star=None):
    """What a case stores of one segment; tokens (B, L + 1). z_star is solved for if not given."""
    u = reference.injection(tokens[:, :-1])
    operands = (u, memory_z, memory_u)
    jacobian = reference.jacobian(z, *operands)
    if z_star is None:
        z_star = reference.fixed_point(*operands)
    log_p = reference.log_probabilities(z_star)
    nll = -np.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0]
    flat, first = v.reshape(len(v), -1), -reference.config["memory_length"] or None
    kept_z, kept_u = (
        np.concatenate([old, new], 1)[:, first:] if first else old[:, :0]
        for old, new in ((memory_z, z_star), (memory_u, u))
    )
    return {
        "f_z": reference.cell(z, *operands),
        "Jv": np.einsum("bij,bj->bi", jacobian, flat).reshape(v.shape),
        "vJ": np.einsum("bi,bij->bj", flat, jacobian).reshape(v.shape),
        "z_star": z_star,
        "f_z_star": reference.cell(z_star, *operands),
        "nll": nll.T,
        "mem_z": kept_z,
        "mem_u": kept_u,
    }


def random_state(config, seed=0, bare_projections=False):
    """A state dict with the keys of the published format, float32.

    Projections are stored as a linear layer's weight, or bare as a parameter by itself.
    """
    rng = np.random.default_rng(seed)
    width, inner = config["d_model"], config["d_inner"]
    heads = config["num_heads"]
    embed = config.get("d_embed") or width
    divisor = config.get("div_val", 1)
    bounds = [0, *config.get("cutoffs", []), config["vocab_size"]]
    ends = list(itertools.pairwise(bounds))
    state = {}

    def draw(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def projection(module, index, value):
        state[f"{module}.{index}" + ("" if bare_projections else ".weight")] = value

    def matrix(name, outputs, inputs, *kernel, bias, scale=0.4):
        if config.get("weight_norm", False):
            gains = scale * (0.75 + 0.5 * rng.random((outputs, 1, *kernel)))
            state[f"{name}.weight_g"] = gains.astype(np.float32)
            state[f"{name}.weight_v"] = draw(outputs, inputs, *kernel)
        else:
            state[f"{name}.weight"] = draw(outputs, inputs, *kernel, scale=scale / inputs**0.5)
        if bias:
            state[f"{name}.bias"] = draw(outputs, scale=0.1)

    one_table = divisor == 1
    shapes = (
        [(bounds[-1], embed)]
        if one_table
        else [(end - start, embed // divisor**i) for i, (start, end) in enumerate(ends)]
    )
    sizes = [embed] * len(ends) if one_table else [size for _, size in shapes]
    projects = not one_table or embed != width
    for i, (rows, size) in enumerate(shapes):
        state[f"word_emb.emb_layers.{i}.weight"] = draw(rows, size, scale=size**-0.5)
        if projects:
            projection("word_emb.emb_projs", i, draw(width, size, scale=width**-0.5))
    state["inject_conv.weight"] = draw(3 * width, width, 1, scale=width**-0.5)
    state["inject_conv.bias"] = draw(3 * width, scale=0.1)
    state["pos_emb.inv_freq"] = (10000 ** (-np.arange(0, width, 2) / width)).astype(np.float32)
    for name in ("r_w_bias", "r_r_bias"):
        state[f"func.dec_attn.{name}"] = draw(heads, width // heads, scale=0.3)
    matrix("func.dec_attn.qkv_net", 3 * width, width, 1, bias=False)
    matrix("func.dec_attn.r_net", width, width, 1, bias=False, scale=1.0)
    matrix("func.dec_attn.o_net", width, width, 1, bias=True)
    matrix("func.pos_ff.ff1_net", inner, width, bias=True, scale=0.6)
    matrix("func.pos_ff.ff2_net", width, inner, bias=True)
    if len(ends) > 1:
        state["crit.cluster_weight"] = draw(len(ends) - 1, embed)
        state["crit.cluster_bias"] = draw(len(ends) - 1)
    for i, (rows, size) in enumerate(shapes):
        tied = config.get("tie_weights", True)
        table = state[f"word_emb.emb_layers.{i}.weight"]
        state[f"crit.out_layers.{i}.weight"] = table.copy() if tied else draw(rows, size)
        state[f"crit.out_layers.{i}.bias"] = draw(rows)
    ties = [*config.get("tie_projs", [False]), *[False] * len(ends)]
    for i, size in enumerate(sizes if projects else []):
        source = f"word_emb.emb_projs.{0 if one_table else i}"
        source += "" if bare_projections else ".weight"
        tied = state[source].copy()
        projection("crit.out_projs", i, tied if ties[i] else draw(width, size, scale=0.5))
    return state


def write_case(folder, name, config, seed=0, batch=2, bare_projections=False):
    """Write the three files of a case; returns its arrays."""
    import torch

    state = random_state(config, seed, bare_projections)
    reference = Reference(state, config)
    rng = np.random.default_rng(seed + 1000)
    length, width = config["target_length"], config["d_model"]
    tokens = rng.integers(config["vocab_size"], size=(batch, 2 * length + 1))
    arrays = {"tokens": tokens}
    memory = np.zeros((batch, 0, width)), np.zeros((batch, 0, 3 * width))
    for segment in (0, 1):
        z, v = rng.standard_normal((2, batch, length, width))
        window = tokens[:, segment * length : (segment + 1) * length + 1]
        found = segment_outputs(reference, window, z, v, *memory)
        memory = found["mem_z"], found["mem_u"]
        found |= {"z": z, "v": v}
        del found["f_z_star"]
        arrays |= {f"{key}_{segment}": x.astype(np.float32) for key, x in found.items()}
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

    for file in sorted(folder.glob("deq_transformer_*.pth")):
        config = json.loads(file.with_suffix(".json").read_text())
        arrays = np.load(file.with_suffix(".npz"))
        reference = Reference(torch.load(file, weights_only=True), config)
        tokens, length = arrays["tokens"], config["target_length"]
        memory = [np.zeros((len(tokens), 0, n * config["d_model"])) for n in (1, 3)]
        for segment in (0, 1):
            window = tokens[:, segment * length : (segment + 1) * length + 1]
            z, v, z_star = (
                arrays[f"{name}_{segment}"].astype(np.float64) for name in ("z", "v", "z_star")
            )
            found = segment_outputs(reference, window, z, v, *memory, z_star)
            memory = found["mem_z"], found["mem_u"]
            found["z_star"] = found.pop("f_z_star")  # a fixed point: f must give it back
            errors = {
                name: distance(value, arrays[f"{name}_{segment}"]) for name, value in found.items()
            }
            print(file.stem, segment, *(f"{name} {e:.1e}" for name, e in errors.items()))


if __name__ == "__main__":
    check_against_published(Path(sys.argv[1]))
