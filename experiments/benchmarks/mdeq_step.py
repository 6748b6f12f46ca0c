"""What a solve of an MDEQ costs beyond its evaluations, and how much memory its gradient takes.

Command:   python experiments/benchmarks/mdeq_step.py [--quick] [--repeats 15] [--out FOLDER]
Hardware:  two CPU cores, no GPU
Time:      about five minutes
Expected:  time ratio at most 1.1; the same bytes for every step limit
           (experiments/results/mdeq_step.json)

The model is the published CIFAR-10 tiny one. A gradient with a fixed number of steps each way is
timed against its parts in the same process, in turns: evaluations of f, pull-backs of f through z
alone, and the gradient of the model with its cell applied once, which has everything else in both
directions (stem, one pull-back through all operands, head, loss). Memory is XLA's plan for the
gradient.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deqjax.models import MDEQ, MDEQShape, SolverSettings
from timing import RESULTS, environment, interleaved, milliseconds, ratio, save, verdict

TARGET = 1.1
LIMITS = (5, 50)


def settings(steps: int) -> SolverSettings:
    """Broyden both ways, which never stops before its limit."""
    return SolverSettings(
        method="broyden",
        max_steps=steps,
        tol=0.0,
        history=8,
        backward_method="broyden",
        backward_max_steps=steps,
        backward_tol=0.0,
    )


def build(quick: bool, steps: int):
    """Graph and state of the model, and a batch of images with labels."""
    shape = MDEQShape((2, 2), 2, 1, (2, 2), 4) if quick else MDEQShape()
    shape = dataclasses.replace(shape, input_channels=3, classes=10)
    rows, side = (2, 8) if quick else (32, 32)
    model = MDEQ(shape, settings(steps), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(rows, side, side, 3)), jnp.float32)
    return nnx.split(model, nnx.Param, ...), images, jnp.asarray(rng.integers(0, 10, rows))


def gradient_of(parts, images, labels):
    """The gradient of the loss in the parameters, of a number of layers or a solve."""
    graph, _, rest = parts

    def loss(parameters, layers):
        model = nnx.merge(graph, parameters, rest, copy=True)
        logits = model(images, layers=layers).logits
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

    return lambda layers: jax.jit(jax.grad(lambda parameters: loss(parameters, layers)))


def planned_bytes(quick: bool) -> dict[int, int]:
    """Of the gradient, for each step limit."""
    found = {}
    for steps in LIMITS:
        parts, *batch = build(quick, steps)
        compiled = gradient_of(parts, *batch)(None).lower(parts[1]).compile()
        found[steps] = compiled.memory_analysis().temp_size_in_bytes
    return found


def times(quick: bool, steps: int, repeats: int) -> dict[str, float]:
    """Medians in milliseconds of the gradient and of its parts, and their ratio."""
    parts, images, labels = build(quick, steps)
    graph, parameters, rest = parts

    def model():
        return nnx.merge(graph, parameters, rest, copy=True)

    u = jax.jit(lambda: model().inputs(images))()
    z = model().zero_state(*images.shape[:3])
    w = jax.tree.map(jnp.ones_like, z)

    def f(z, u):
        return model().deq.cell(z, u)

    whole = gradient_of(parts, images, labels)
    solved, once = whole(None), whole(1)
    evaluate = jax.jit(f)
    pull = jax.jit(lambda z, u, w: jax.vjp(lambda z: f(z, u), z)[1](w))
    seconds = interleaved(
        {
            "gradient": lambda: solved(parameters),
            "gradient with one application": lambda: once(parameters),
            "f": lambda: evaluate(z, u),
            "f and its pull-back": lambda: pull(z, u, w),
        },
        repeats,
    )
    # the backward solve linearizes f once: a step of it is a pull-back without the evaluation
    sums = [
        once_ + (steps + 1) * f_ + (steps + 1) * (pull_ - f_)
        for once_, f_, pull_ in zip(
            seconds["gradient with one application"],
            seconds["f"],
            seconds["f and its pull-back"],
            strict=True,
        )
    ]
    found = {name: milliseconds(values) for name, values in seconds.items()}
    return found | {
        "sum of the parts": milliseconds(sums),
        "ratio": ratio(seconds["gradient"], sums),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--steps", type=int, default=8, help="each way")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    measured = times(options.quick, options.steps, options.repeats)
    planned = planned_bytes(options.quick)
    for name, value in measured.items():
        print(f"{name:28} {value:10.2f}" + ("" if name == "ratio" else " ms"))
    print(f"time: {verdict(measured['ratio'] <= TARGET)} (at most {TARGET})")
    for steps, size in planned.items():
        print(f"{steps:3} steps: {size:,} bytes")
    print(f"memory: {verdict(len(set(planned.values())) == 1)} (the same for every limit)")
    record = environment(("jax", "flax", "deqjax")) | {
        "settings": dataclasses.asdict(settings(options.steps)),
        "times_ms": measured,
        "bytes": planned,
    }
    save(options.out, "mdeq_step", record, None)


if __name__ == "__main__":
    main()
