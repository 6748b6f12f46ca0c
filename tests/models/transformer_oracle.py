"""The Transformer layer in NumPy, one query, key and head at a time, with explicit distances."""

import numpy as np


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def normalized(weight):
    """The matrix of a `Weight` with weight normalization."""
    kernel, gain = np.asarray(weight.kernel[...]), np.asarray(weight.gain[...])
    return kernel * gain / np.sqrt((kernel**2).sum(0))


def sinusoids(distance, width):
    angles = distance / 10000 ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)])


def attention(layer, c, injection, memory_length, filled, horizon):
    """a for the queries after the memory; c and injection hold memory and segment."""
    heads, size = layer.content_bias[...].shape
    width, keys = heads * size, c.shape[1]
    q, k, v = np.split(c @ normalized(layer.qkv) + injection, 3, axis=-1)
    mixed = np.zeros((len(c), keys - memory_length, width))
    for row, i, head in np.ndindex(len(c), keys - memory_length, heads):
        part = slice(head * size, (head + 1) * size)
        query = q[row, memory_length + i, part]
        scores, values = [], []
        for j in range(memory_length - filled[row], keys):
            distance = i + memory_length - j
            if 0 <= distance < horizon:
                r = (sinusoids(distance, width) @ normalized(layer.distance))[part]
                content = (query + layer.content_bias[head]) @ k[row, j, part]
                scores.append((content + (query + layer.position_bias[head]) @ r) / np.sqrt(size))
                values.append(v[row, j, part])
        share = np.exp(np.array(scores) - np.max(scores))
        mixed[row, i, part] = share / share.sum() @ np.array(values)
    return mixed @ normalized(layer.out) + layer.out_bias[...]


def feed_forward(layer, h):
    hidden = np.maximum(h @ normalized(layer.up) + layer.up_bias[...], 0)
    return hidden @ normalized(layer.down) + layer.down_bias[...]
