"""The reference that makes cases must be right on its own."""

import numpy as np
import reference_transformer as ref

CONFIG = {
    "vocab_size": 11,
    "d_model": 6,
    "num_heads": 2,
    "d_inner": 7,
    "cutoffs": [4, 7],
    "div_val": 2,
    "local_size": 3,
    "target_length": 3,
    "memory_length": 2,
}


def example():
    reference = ref.Reference(ref.random_state(CONFIG), CONFIG)
    rng = np.random.default_rng(1)
    z, v = rng.standard_normal((2, 2, 3, 6))
    operands = rng.standard_normal((2, 3, 18)), *(rng.standard_normal((2, 2, n)) for n in (6, 18))
    return reference, z, v, operands


def test_jacobian_agrees_with_central_differences():
    reference, z, v, operands = example()
    ahead, behind = (reference.cell(z + step * v, *operands) for step in (1e-6, -1e-6))
    product = np.einsum("bij,bj->bi", reference.jacobian(z, *operands), v.reshape(2, -1))
    np.testing.assert_allclose(product.reshape(z.shape), (ahead - behind) / 2e-6, atol=1e-8)


def test_a_query_sees_the_horizon_and_nothing_else():
    reference, z, _, operands = example()
    jacobian = reference.jacobian(z, *operands).reshape(2, 3, 6, 3, 6)
    influence = np.max(np.abs(jacobian), axis=(0, 2, 4))
    np.testing.assert_array_equal(influence > 0, np.tril(np.ones((3, 3), bool)))
    far = operands[0], operands[1].copy(), operands[2]
    far[1][:, 0] += 1  # the memory's first position: three before query 1, two before query 0
    change = np.max(np.abs(reference.cell(z, *far) - reference.cell(z, *operands)), axis=(0, 2))
    np.testing.assert_array_equal(change > 0, [True, False, False])


def test_probabilities_of_all_tokens_sum_to_one():
    reference, z, _, _ = example()
    np.testing.assert_allclose(np.exp(reference.log_probabilities(z)).sum(-1), 1, rtol=1e-12)
