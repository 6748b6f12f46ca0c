"""From a published MDEQ's state dict to a model: everything is used, nothing is guessed."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from reference_mdeq import SMALL as CONFIG
from reference_mdeq import Reference, random_state

from deqjax import cli
from deqjax.convert import ConversionError, convert_mdeq, load_converted, read_model
from deqjax.convert._parameters import variables_of

STATE = random_state(CONFIG)


def refused(state, config=None):
    with pytest.raises(ConversionError) as caught:
        convert_mdeq(state, CONFIG if config is None else config)
    return str(caught.value)


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


def test_each_missing_key_is_named():
    needed = {key for key in STATE if not key.endswith("num_batches_tracked")}
    listed = refused({}).split("missing keys: ")[1].split(". ")[0]
    assert set(listed.split(", ")) == needed


def test_all_problems_are_in_one_error():
    state = without(STATE, "final_layer.1.running_var", "classifier.bias") | {
        "fullstage.extra": np.ones(3, np.float32),
        "downsample.0.weight": np.ones((3, 3, 3, 2), np.float32),
        "downsample.1.num_batches_tracked": np.ones((), np.float32),
        "downsample.1.running_mean": np.ones(2, np.int64),
    }
    message = refused(state)
    for problem in (
        "missing keys: final_layer.1.running_var, classifier.bias",
        "unknown keys: fullstage.extra",
        "downsample.0.weight has shape (3, 3, 3, 2) instead of (2, 3, 3, 3)",
        "downsample.1.num_batches_tracked is float32, not integer",
        "downsample.1.running_mean is int64, not floating point",
    ):
        assert problem in message


def test_counters_of_batches_may_be_absent():
    counters = [key for key in STATE if key.endswith("num_batches_tracked")]
    assert counters
    convert_mdeq(without(STATE, *counters), CONFIG)


@pytest.mark.parametrize(
    ("option", "missing", "unknown"),
    [
        (
            {"wn": False},
            "branches.0.blocks.0.conv1.weight (",
            "branches.0.blocks.0.conv1.weight_g,",
        ),
        ({"post_affine": True}, "post_fuse_layers.0.gnorm.weight,", None),
        ({"block_affine": False}, None, "branches.0.blocks.0.gn1.weight,"),
        ({"fuse_affine": False}, None, "fuse_layers.0.1.net.gnorm.weight,"),
        ({"down": 1}, "stage0.0.weight,", None),
        ({"task": "seg"}, "last_layer.0.weight (", "incre_modules.0.0.conv1.weight,"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_option_shows_in_the_keys(option, missing, unknown):
    message = refused(STATE, CONFIG | option)
    for heading, key in (("missing keys: ", missing), ("unknown keys: ", unknown)):
        if key is not None:
            assert key in message.split(heading)[1].split(";")[0]


def test_kernels_are_transposed_and_statistics_are_kept():
    found = variables_of(convert_mdeq(STATE, CONFIG))
    kernel = found["stem.layers.0.weight.kernel"]
    np.testing.assert_array_equal(kernel[...], STATE["downsample.0.weight"].transpose(2, 3, 1, 0))
    norm = "head.bottlenecks.1.mix.norm"
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
        variable = found[f"{norm}.{ours}"]
        assert isinstance(variable, nnx.BatchStat)
        np.testing.assert_array_equal(variable[...], STATE[f"incre_modules.1.0.bn2.{theirs}"])
    assert all(isinstance(variable[...], jax.Array) for variable in found.values())


def test_a_single_branch_may_bring_a_fusion_that_nothing_applies():
    config = CONFIG | {"channels": [4], "head": [3]}
    state = random_state(config)
    extra = [key for key in state if "post_fuse_layers" in key]
    assert extra
    with_it, without_it = (
        nnx.state(convert_mdeq(s, config), nnx.Param) for s in (state, without(state, *extra))
    )
    jax.tree.map(np.testing.assert_array_equal, with_it, without_it)


def test_an_equal_width_has_no_shortcut_and_third_halvings_have_names():
    config = CONFIG | {"channels": [4, 4], "head": [1, 2], "down": 3}
    state = random_state(config)
    assert "downsample.DS3.weight" in state
    assert "incre_modules.0.0.downsample.0.weight" not in state
    model = convert_mdeq(state, config)
    assert model.head.bottlenecks[0].shortcut is None
    assert [layer.stride for layer in model.stem.layers] == [2, 2, 2]


def test_published_names_of_options_are_known():
    long = {
        "num_channels": CONFIG["channels"],
        "head_channels": CONFIG["head"],
        "final_chansize": CONFIG["final"],
        "downsample_times": CONFIG["down"],
        "num_groups": CONFIG["groups"],
        "expansion_factor": CONFIG["exp"],
        "num_classes": 7,
        "big_kernels": [0, 0],
        "wnorm": True,
        "block_gn_affine": True,
        "fuse_gn_affine": True,
        "post_gn_affine": False,
        "dropout": 0.25,
    }
    model = convert_mdeq(STATE, long)
    assert model.shape.channels == (2, 4)
    assert model.shape.dropout == 0.25


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channel": [2]}, "channel is unknown"),
        ({"groups": "2"}, "groups is '2' "),
        ({"groups": 4}, "a branch has 2 channels, which must be a multiple of the 4 groups"),
        ({"head": [1]}, "head_channels must be 2 numbers, one per branch, got (1,)"),
        ({"final": None}, "a classifier (task cls) needs the options head and final"),
        ({"big": [1]}, "big_kernels has 1 entries for 2 branches"),
    ],
    ids=["unknown", "text", "groups", "head", "final", "big"],
)
def test_options_that_make_no_model_are_refused(change, sentence):
    assert sentence in refused(STATE, CONFIG | change)


def test_a_missing_option_is_named():
    assert "channels is missing" in refused(STATE, without(CONFIG, "channels"))


# on disk


@pytest.fixture
def files(tmp_path):
    """A checkpoint and its configuration."""
    torch.save({k: torch.from_numpy(np.asarray(v)) for k, v in STATE.items()}, tmp_path / "m.pth")
    (tmp_path / "m.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_the_command_writes_a_model_that_loads(files, capsys):
    arguments = [files / "m.pth", "--config", files / "m.json", "--out", files / "out"]
    assert cli.main(["convert", *map(str, arguments)]) == 0
    counted = [
        value.size
        for key, value in STATE.items()
        if not key.endswith(("num_batches_tracked", "running_mean", "running_var"))
    ]
    printed = capsys.readouterr().out
    assert f"{sum(counted):,}" in printed
    assert "classification" in printed
    loaded = load_converted(files / "out")
    read = read_model(files / "m.pth", files / "m.json")
    ours, theirs = variables_of(loaded), variables_of(read)
    assert ours.keys() == theirs.keys()
    for name, variable in ours.items():
        np.testing.assert_array_equal(variable[...], theirs[name][...], err_msg=name)
    assert loaded.shape == read.shape
    assert loaded.stem.layers[0].norm.use_running_average
    images = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    reference = Reference(STATE, CONFIG)
    z = [np.zeros(size) for size in reference.sizes(images)]
    logits = jax.jit(lambda images: loaded(images, layers=1).logits)(images)
    expected = reference.output(reference.cell(z, reference.injection(images)))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_an_option_that_a_recipe_of_images_does_not_have_is_refused(files, capsys):
    recipe = Path(__file__).parents[2] / "experiments" / "vision" / "cifar10_mdeq_tiny.py"
    places = ["--out", files / "out", "--recipe", recipe, "--file", files / "m.json"]
    arguments = ["convert", files / "m.pth", "--config", files / "m.json", *places]
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert "--file means nothing to" in capsys.readouterr().err
    assert not (files / "out").exists()


def test_a_checkpoint_is_recognized_by_its_keys(files):
    names = {"channels": "num_channels", "head": "head_channels"}
    config = {names.get(key, key): value for key, value in CONFIG.items()}
    (files / "m.json").write_text(json.dumps(config))
    assert read_model(files / "m.pth", files / "m.json").shape.channels == (2, 4)


def test_a_description_of_another_kind_is_refused(files):
    folder = files / "out"
    folder.mkdir()
    (folder / "model.json").write_text('{"model": "resnet"}')
    with pytest.raises(ConversionError, match="does not fit: model must be"):
        load_converted(folder)
