"""From a published state dict to a model: everything is used, nothing is guessed."""

import numpy as np
import pytest
from flax import nnx
from reference_transformer import SMALL as CONFIG
from reference_transformer import random_state

from deqjax.convert import ConversionError, convert_deq_transformer
from deqjax.convert._keys import Ledger

STATE = random_state(CONFIG)


def refused(state, config=None):
    with pytest.raises(ConversionError) as caught:
        convert_deq_transformer(state, CONFIG if config is None else config)
    return str(caught.value)


def test_any_missing_key_is_named():
    for key in STATE:
        rest = {other: value for other, value in STATE.items() if other != key}
        assert f"missing keys: {key}." in refused(rest)


def test_all_problems_are_in_one_error():
    state = STATE | {
        "func.extra": np.ones(3, np.float32),
        "inject_conv.bias": np.ones(5, np.float32),
        "crit.cluster_bias": np.ones(2, np.int64),
        "crit.out_layers.1.weight": 2 * STATE["crit.out_layers.1.weight"],
        "crit.out_projs.2.weight": 2 * STATE["crit.out_projs.2.weight"],
        "pos_emb.inv_freq": STATE["pos_emb.inv_freq"] * 1.01,
    }
    del state["func.dec_attn.r_w_bias"], state["func.pos_ff.ff1_net.bias"]
    message = refused(state)
    for problem in (
        "missing keys: func.dec_attn.r_w_bias, func.pos_ff.ff1_net.bias",
        "unknown keys: func.extra",
        "inject_conv.bias has shape (5,) instead of (24,)",
        "crit.cluster_bias is int64, not floating point",
        "crit.out_layers.1.weight differs from word_emb.emb_layers.1.weight, to which tie_weights",
        "crit.out_projs.2.weight differs from word_emb.emb_projs.2.weight, to which tie_projs[2]",
        "pos_emb.inv_freq differs from its formula (by up to 0.01, relative)",
    ):
        assert problem in message
    assert "emb_layers.0" not in message


@pytest.mark.parametrize("transposed", [False, True])
def test_shape_is_not_guessed(transposed):
    shape = (6, 8, 1) if not transposed else (8, 6)
    key = "func.pos_ff.ff1_net.weight_v"
    state = STATE | {key: STATE[key].reshape(shape)}
    if transposed:
        assert f"{key} has shape (8, 6) instead of (6, 8)" in refused(state)
    else:  # a convolution of kernel size 1, as older versions of the published code have it
        convert_deq_transformer(state, CONFIG)


def test_projection_stored_twice_is_not_skipped():
    state = STATE | {"crit.out_projs.0": STATE["crit.out_projs.0.weight"]}
    assert "unknown keys: crit.out_projs.0." in refused(state)


def test_wrong_option_shows_in_the_keys():
    message = refused(STATE, CONFIG | {"weight_norm": False})
    assert "missing keys: func.dec_attn.qkv_net.weight (nearest: func.dec_attn.qkv_net." in message
    assert "unknown keys: func.dec_attn.qkv_net.weight_g," in message


def test_untied_weights_may_differ():
    config = CONFIG | {"tie_weights": False, "tie_projs": [False, False, False]}
    state = random_state(config)
    model = convert_deq_transformer(state, config)
    np.testing.assert_array_equal(model.softmax.tables[1][...], state["crit.out_layers.1.weight"])
    np.testing.assert_array_equal(
        model.softmax.projections[2][...], state["crit.out_projs.2.weight"]
    )
    assert model.softmax.tables[1] is not model.embedding.tables[1]


def test_tied_weights_stay_one_parameter():
    model = convert_deq_transformer(STATE, CONFIG)
    assert model.softmax.tables[0] is model.embedding.tables[0]
    assert model.softmax.projections[1] is model.embedding.projections[1]
    assert model.softmax.projections[0] is not model.embedding.projections[0]


def test_projections_tied_without_tables_are_checked_and_equal():
    config = CONFIG | {"tie_weights": False}
    state = random_state(config)
    model = convert_deq_transformer(state, config)
    np.testing.assert_array_equal(
        model.softmax.projections[1][...], model.embedding.projections[1][...]
    )
    state["crit.out_projs.1.weight"] = state["crit.out_projs.1.weight"] + 1
    assert "tie_projs[1] ties it (by up to 1;" in refused(state, config)


def test_model_is_in_evaluation_mode():
    model = convert_deq_transformer(STATE, CONFIG)
    dropouts = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Dropout)]
    assert dropouts
    assert all(dropout.deterministic for dropout in dropouts)


class Pair(nnx.Module):
    def __init__(self):
        self.first = nnx.Param(np.zeros(2, np.float32))
        self.second = nnx.Param(np.zeros(2, np.float32))


def test_parameter_that_no_key_sets_is_named():
    pair, ledger = Pair(), Ledger({"a": np.ones(2, np.float32)})
    ledger.move(pair.first, "a")
    with pytest.raises(ConversionError, match="parameters that no key sets: second"):
        ledger.close(pair)


def test_parameter_set_twice_is_named():
    pair = Pair()
    ledger = Ledger({name: np.ones(2, np.float32) for name in "abc"})
    for parameter, name in ((pair.first, "a"), (pair.second, "b"), (pair.first, "c")):
        ledger.move(parameter, name)
    with pytest.raises(ConversionError, match="c and a both set one parameter"):
        ledger.close(pair)
