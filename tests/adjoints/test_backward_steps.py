"""How long a backward solve may take."""

import pytest

from deqjax import adjoints, solvers


@pytest.mark.parametrize(
    ("adjoint", "expected"),
    [
        (None, 30),
        (adjoints.implicit(solvers.gmres, max_steps=7), 7),
        (adjoints.implicit(max_steps=5, forward_mode=True), 5),
        (adjoints.shine(refine=3), 3),
        (adjoints.shine(), None),
        (adjoints.jacobian_free(), None),
        (adjoints.neumann(4), None),
        (adjoints.reversible(), None),
        (adjoints.unrolled(), None),
    ],
)
def test_rules_with_a_backward_solve_have_a_limit(adjoint, expected):
    assert adjoints.backward_steps(adjoint) == expected
