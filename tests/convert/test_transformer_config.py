"""Options of published models: defaults, contradictions, and what they are for our model."""

import pytest

from deqjax.convert import ConversionError, convert_deq_transformer
from deqjax.convert._transformer_config import check_config

NEEDED = {"vocab_size": 50, "d_model": 12, "num_heads": 3, "d_inner": 20}


def test_published_defaults():
    shape = check_config(NEEDED).shape()
    assert (shape.length, shape.memory_length, shape.horizon) == (150, 150, 1000)
    assert (shape.cutoffs, shape.divisor, shape.embedding_width) == ((), 1, None)
    assert shape.tie_weights
    switches = (shape.pre_layer_norm, shape.weight_norm, shape.residual_injection)
    assert switches == (False, False, False)


@pytest.mark.parametrize(("given", "horizon"), [(0, 1000), (None, 1000), (7, 7)])
def test_no_horizon_is_the_published_one(given, horizon):
    assert check_config(NEEDED | {"local_size": given}).shape().horizon == horizon


@pytest.mark.parametrize(
    ("options", "ties"),
    [
        ({}, (False,)),
        ({"div_val": 2, "cutoffs": [5, 9], "tie_projs": [True]}, (True, False, False)),
        ({"div_val": 2, "tie_projs": [True, False]}, (True,)),
        ({"cutoffs": [5], "tie_projs": [True, True]}, (False, False)),
        ({"cutoffs": [5], "d_embed": 12, "tie_projs": [True, True]}, (False, False)),
        ({"cutoffs": [5], "d_embed": 6, "tie_projs": [False, True]}, (False, True)),
    ],
    ids=["default", "short", "long", "no_projections", "equal_widths", "projected"],
)
def test_ties_are_one_per_cluster_and_only_where_there_are_projections(options, ties):
    assert check_config(NEEDED | options).projection_ties == ties


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"d_head": 5}, r"d_model 12 must be num_heads \* d_head, but 3 \* 5 is 15"),
        ({"num_heads": 5}, "d_model 12 is no multiple of num_heads 5"),
        ({"n_layer": 3, "dropatt": 0.1}, "n_layer is unknown; dropatt is unknown"),
        ({"d_inner": "20"}, "d_inner is '20'"),
        ({"vocab_size": 0}, r"vocab_size is 0 \(input should be greater than 0\)"),
        ({"vocab_size": 50.0}, r"vocab_size is 50\.0"),
        ({"num_heads": True}, "num_heads is True"),
        ({"tie_weights": 1}, "tie_weights is 1"),
        ({"cutoffs": [5, "9"]}, r"cutoffs\.1 is '9'"),
        ({"tie_projs": [0]}, r"tie_projs\.0 is 0"),
        ({"tie_projs": [False, True]}, "tie_projs has 2 entries for 1 clusters"),
        ({"cutoffs": [9, 5]}, r"makes no model: cutoffs \(9, 5\) must increase"),
        ({"cutoffs": [9], "div_val": 20}, "makes no model: divisor 20 leaves cluster 1 no width"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_senseless_configuration_is_refused(options, sentence):
    with pytest.raises(ConversionError, match=sentence):
        convert_deq_transformer({}, NEEDED | options)


def test_all_missing_options_are_listed():
    with pytest.raises(ConversionError) as caught:
        convert_deq_transformer({}, {"vocab_size": 3, "layers": 2})
    for problem in ("d_model is missing", "num_heads is missing", "d_inner is missing"):
        assert problem in str(caught.value)
    assert "layers is unknown" in str(caught.value)
