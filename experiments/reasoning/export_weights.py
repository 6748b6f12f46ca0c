"""The weights of a run as a small file: what evaluation uses, in half precision.

Command:   python experiments/reasoning/export_weights.py RUN FILE.npz
Example:   python experiments/reasoning/export_weights.py runs/sudoku4 notebooks/sudoku4_weights.npz

Takes the newest checkpoint, and of it the moving average of the weights where the run has one.
An array is named by the path of its parameter in the model, as "deq.cell.layers.0.mix.out.kernel".
"""

import argparse
from pathlib import Path

import numpy as np
from flax import nnx

from deqjax.training import load_run


def named_weights(model: nnx.Module) -> dict[str, np.ndarray]:
    """The parameters of a model in float16, by their paths.

    Raises:
        ValueError: a parameter is too large for float16.
    """
    found = {}
    for path, parameter in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        name = ".".join(map(str, path))
        whole = np.asarray(parameter[...], np.float32)
        if np.abs(whole).max(initial=0) > np.finfo(np.float16).max:
            raise ValueError(f"{name} holds numbers that are too large for float16.")
        found[name] = whole.astype(np.float16)
    return found


def main() -> None:
    """Read a run, write a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("file", type=Path, help="where the weights go, FILE.npz")
    arguments = parser.parse_args()
    weights = named_weights(load_run(arguments.run).model)
    np.savez_compressed(arguments.file, **weights)
    count = sum(each.size for each in weights.values())
    print(f"{count:,} weights, {arguments.file.stat().st_size / 1024:.0f} KiB: {arguments.file}")


if __name__ == "__main__":
    main()
