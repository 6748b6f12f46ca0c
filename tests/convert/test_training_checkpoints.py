"""Checkpoints as trainings leave them: what lies beside the weights, and what wraps their names."""

import json

import numpy as np
import pytest
import torch
from reference_mdeq import random_state as mdeq_state
from reference_transformer import SMALL as CONFIG
from reference_transformer import random_state

from deqjax.convert import (
    ConversionError,
    convert_deq_transformer,
    convert_mdeq,
    read_model,
    read_state_dict,
)

STATE = random_state(CONFIG)
TENSORS = {key: torch.from_numpy(value) for key, value in STATE.items()}
RANDOM = torch.get_rng_state()


@pytest.fixture
def saved(tmp_path):
    """Writes a checkpoint; beside it lies the configuration that `converted` reads."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    def save(content):
        torch.save(content, tmp_path / "model.pth")
        return tmp_path / "model.pth"

    return save


def converted(file):
    return read_model(file, file.parent / "config.json")


def prefixed(prefix, tensors=TENSORS):
    return {prefix + key: tensor for key, tensor in tensors.items()}


@pytest.mark.parametrize(
    "beside",
    [
        {"epoch": torch.tensor(3), "best": torch.tensor(0.5), "lr": 0.1},
        {"rng": RANDOM, "cuda": [RANDOM], "all": {"cpu": RANDOM}},
        {
            "scaler": {"scale": torch.tensor(2.0)},
            "losses": torch.ones(5),
            "order": {"rows": RANDOM},
        },
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}},
    ],
    ids=["scalars", "random_states", "scores", "optimizer"],
)
def test_what_lies_beside_the_state_dict_does_not_matter(beside, saved):
    found = read_state_dict(saved({"model": TENSORS} | beside))
    assert list(found) == list(STATE)


def test_weights_beside_another_state_dict_are_not_passed_over(saved):
    with pytest.raises(ConversionError, match=r"side by side \(average\)"):
        read_state_dict(saved(TENSORS | {"average": TENSORS}))


@pytest.mark.parametrize(
    "prefix",
    ["module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."],
)
def test_names_of_wrappers_are_dropped_where_all_have_them(prefix, saved):
    assert list(read_state_dict(saved(prefixed(prefix)))) == list(STATE)


def test_wrappers_inside_a_model_are_dropped(saved):
    inside = {key.replace("func.", "func._orig_mod."): each for key, each in TENSORS.items()}
    assert list(read_state_dict(saved(inside))) == list(STATE)
    both = {"a._orig_mod.b": torch.ones(1), "a.b": torch.ones(1)}
    assert list(read_state_dict(saved(both))) == list(both)


def test_keys_that_lack_the_prefix_of_the_others_are_named(saved):
    content = prefixed("module.") | {"n_averaged": torch.tensor(2)}
    file = saved(content)
    assert list(read_state_dict(file)) == list(content)
    with pytest.raises(ConversionError, match=r'"module\.".* but not these: n_averaged\. Save the'):
        converted(file)


def test_parts_of_a_checkpoint_lose_the_same_prefix(saved, tmp_path):
    """Of one part all keys may begin with what is a module's name in the other."""
    parts = {"1.pth": prefixed("module."), "2.pth": {"extra": torch.ones(1)}}
    for name, content in parts.items():
        torch.save(content, tmp_path / name)
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (tmp_path / "all.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError, match="but not these: extra"):
        read_model(tmp_path)


def newer(state):
    """With the names of torch.nn.utils.parametrizations.weight_norm."""
    old = {"weight_g": "parametrizations.weight.original0"}
    old["weight_v"] = "parametrizations.weight.original1"
    return {
        key.replace(name := key.rpartition(".")[2], old.get(name, name)): value
        for key, value in state.items()
    }


def test_newer_names_of_weight_norm_are_known(saved):
    model = converted(saved(newer(TENSORS)))
    known = convert_deq_transformer(STATE, CONFIG)
    np.testing.assert_array_equal(model.deq.cell.up.gain[...], known.deq.cell.up.gain[...])
    np.testing.assert_array_equal(model.deq.cell.up.kernel[...], known.deq.cell.up.kernel[...])


def test_newer_names_of_weight_norm_are_torchs_own():
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2, bias=False))
    old = torch.nn.utils.weight_norm
    with pytest.warns(FutureWarning, match="deprecated"):
        older = old(torch.nn.Linear(3, 2, bias=False)).state_dict()
    assert newer(older).keys() == layer.state_dict().keys()
    shapes = {key: value.shape for key, value in layer.state_dict().items()}
    assert shapes == {key: value.shape for key, value in newer(older).items()}


def test_newer_names_of_an_unused_fusion_are_known():
    config = {"task": "cls", "channels": [4], "head": [2], "final": 4, "groups": 2, "exp": 1}
    config |= {"num_layers": 2, "down": 0, "wn": True}
    state = newer(mdeq_state(config))
    assert "fullstage.post_fuse_layers.0.conv.parametrizations.weight.original0" in state
    convert_mdeq(state, config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("upcast", [False, True], ids=["stored", "upcast"])
def test_derived_buffers_are_as_exact_as_they_were_stored(dtype, upcast, saved):
    rounded = {key: tensor.to(dtype) for key, tensor in TENSORS.items()}
    if upcast:
        rounded = {key: tensor.float() for key, tensor in rounded.items()}
    model = converted(saved(rounded))
    ours, theirs = model.injection.bias[...], rounded["inject_conv.bias"].float().numpy()
    np.testing.assert_array_equal(ours, theirs)
    rounded["pos_emb.inv_freq"] = (TENSORS["pos_emb.inv_freq"] * 1.02).to(dtype)
    with pytest.raises(ConversionError, match="inv_freq differs from its formula"):
        converted(saved(rounded))


def test_a_buffer_in_float32_is_compared_in_float32(saved):
    changed = TENSORS | {"pos_emb.inv_freq": TENSORS["pos_emb.inv_freq"] * 1.001}
    with pytest.raises(ConversionError, match="inv_freq differs from its formula"):
        converted(saved(changed))


def test_a_missing_key_comes_with_its_nearest(saved):
    renamed = {key.replace("dec_attn.o_net", "attn.o_net"): each for key, each in TENSORS.items()}
    with pytest.raises(ConversionError) as caught:
        converted(saved(renamed))
    assert "func.dec_attn.o_net.bias (nearest: func.attn.o_net.bias)" in str(caught.value)


def test_of_many_missing_keys_the_first_ones_have_their_nearest(saved):
    """Looking through all of them for all of them would take a minute for a large model."""
    with pytest.raises(ConversionError) as caught:
        converted(saved(prefixed("net.")))
    message = str(caught.value)
    assert "word_emb.emb_layers.0.weight (nearest: net.word_emb.emb_layers.0.weight)" in message
    assert message.count("nearest") == 10


@pytest.mark.parametrize("option", ["vocab_size", "d_inner", "target_length", "local_size"])
def test_a_size_of_no_machine_is_refused_before_anything_is_made(option):
    with pytest.raises(ConversionError, match=r"makes no model: \w+ must be at most [0-9]+, got"):
        convert_deq_transformer(STATE, CONFIG | {option: 10**12})


def test_a_configuration_of_endless_brackets_is_one_sentence(saved, tmp_path):
    file = saved(TENSORS)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConversionError, match="is not JSON"):
        converted(file)
