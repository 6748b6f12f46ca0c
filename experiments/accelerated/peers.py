"""Solvers against their peers, as ``benchmarks/solvers.py`` compares them, cell after cell.

Left out are methods that evaluate f many times a step, and compile longest; that script has them.
"""

import jax

import cells
from accelerated.part import Options, Tell
from comparison import compare, overhead
from contenders import available
from solvers import OVERHEAD_STEPS, QUICK_STEPS, targets

ORDER = ("matmul", "mdeq", "transformer")
SLOW = ("newton",)


def measure(options: Options, tell: Tell) -> None:
    """Every cell's rows as soon as they are there."""
    contenders, missing = available(("jaxopt",) if options.tiny else None)
    chosen = [each for each in contenders if not any(word in each.method for word in SLOW)]
    tell("not installed", missing)
    sizes = {cell.name: cell for cell in (cells.quick() if options.tiny else cells.full_size())}
    repeats = 2 if options.tiny else 7
    for name in ORDER[:1] if options.tiny else ORDER:
        # PyTorch multiplies in full float32 by default; on a GPU JAX would not
        with jax.default_matmul_precision("highest"):
            cost = overhead(sizes[name], QUICK_STEPS if options.tiny else OVERHEAD_STEPS, repeats)
            tell(f"{name}: overhead", cost)
            rows = compare(sizes[name], chosen, repeats)
        tell(name, {"contenders": rows, "targets": targets(rows, [cost])})
