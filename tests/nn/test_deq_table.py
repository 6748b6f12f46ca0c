"""`nnx.tabulate` of models that hold an equilibrium layer."""

import numpy as np
import pytest
from flax import nnx
from nn_cells import TanhCell, injection

from deqjax.nn import DEQ
from deqjax.solvers import picard


class Penalized(nnx.Module):
    """Uses the layer as a training step does: one frozen map for the solve and what follows."""

    def __init__(self, cell):
        self.deq = DEQ(cell, solver=picard)

    def __call__(self, u):
        f = self.deq.freeze(u)
        value = self.deq(u, f=f, tol=1e-2).value
        return value - f(value, u)


def table(model):
    """The table; then the classes as they were.

    Flax copies inherited methods into them, where its `capture` of all outputs would wrap `sow`.
    """
    kinds = {type(node) for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Pytree)}
    own = {kind: set(vars(kind)) for kind in kinds}
    plain = {"force_terminal": False, "width": 200}
    text = nnx.tabulate(model, injection(), console_kwargs=plain)
    for kind, names in own.items():
        for name in set(vars(kind)) - names:
            delattr(kind, name)
    return text


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (lambda: DEQ(TanhCell(dropout=0.5)), [" DEQ ", " cell/linear "]),
        (lambda: Penalized(TanhCell(dropout=0.5)), [" deq ", " deq/cell/linear ", "(TanhCell)"]),
        (lambda: Penalized(lambda z, u: 0.5 * z + u), [" deq ", " DEQ "]),
    ],
    ids=["layer", "frozen map", "function"],
)
def test_the_table_of_a_model_shows_the_layer_and_its_cell(make, rows):
    text = table(make())
    assert [row for row in rows if row not in text] == []
    assert "status: int32[3]" in text


def test_after_the_table_the_layer_is_as_before():
    model, u = Penalized(TanhCell()), injection()
    expected = np.asarray(model(u))
    table(model)
    np.testing.assert_array_equal(model(u), expected)
    assert callable(model.deq.freeze(u))
