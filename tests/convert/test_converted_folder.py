"""Converted models on disk, and the command that writes them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from reference_transformer import SMALL as CONFIG
from reference_transformer import random_state

from deqjax import cli
from deqjax.convert import (
    ConversionError,
    convert_deq_transformer,
    load_converted,
    published_settings,
    save_converted,
)

STATE = random_state(CONFIG)


@pytest.fixture
def files(tmp_path):
    """A checkpoint and its configuration."""
    tensors = {key: torch.from_numpy(value) for key, value in STATE.items()}
    torch.save(tensors, tmp_path / "model.pth")
    (tmp_path / "model.json").write_text(json.dumps(CONFIG))
    return tmp_path


def run(files, *, checkpoint="model.pth", config="model.json", out="converted"):
    arguments = [files / checkpoint, "--config", files / config, "--out", files / out]
    return cli.main(["convert", *map(str, arguments)])


def test_command_writes_a_model_that_loads(files, capsys):
    assert run(files) == 0
    printed = capsys.readouterr().out
    tied = [key for key in STATE if key.startswith(("crit.out_layers", "crit.out_projs"))]
    tied = [key for key in tied if key.endswith("weight") and key != "crit.out_projs.0.weight"]
    numbers = sum(v.size for k, v in STATE.items() if k not in [*tied, "pos_emb.inv_freq"])
    assert f"{numbers:,}" in printed
    assert str(files / "converted") in printed.replace("\n", "")
    tokens = jnp.arange(6).reshape(2, 3)
    ours, loaded = (
        model(tokens).states
        for model in (convert_deq_transformer(STATE, CONFIG), load_converted(files / "converted"))
    )
    np.testing.assert_array_equal(ours, loaded)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"checkpoint": "absent.pth"}, "there is no file"),
        ({"config": "absent.json"}, "cannot be read"),
        ({"config": "model.pth"}, "is not JSON"),
        ({"out": "."}, "exists already and is not empty"),
        ({"out": "model.json"}, "exists already and is not empty"),
        ({"out": "model.json/inside"}, "cannot be written to"),
    ],
    ids=["no_checkpoint", "no_config", "no_json", "taken", "a_file", "below_a_file"],
)
def test_command_fails_in_one_line(options, sentence, files, capsys):
    assert run(files, **options) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("deqjax: error: ")
    assert sentence in line


def test_command_without_options_is_a_usage_error(files):
    assert cli.main(["convert", str(files / "model.pth")]) == 2


@pytest.fixture
def converted(tmp_path):
    model = convert_deq_transformer(STATE, CONFIG)
    save_converted(model, published_settings(), tmp_path / "folder")
    return tmp_path / "folder"


def test_shared_parameters_are_shared_again(converted):
    model = load_converted(converted)
    assert model.softmax.tables[0] is model.embedding.tables[0]
    assert model.deq.max_steps == published_settings().max_steps


def test_folder_without_model_is_refused(tmp_path):
    with pytest.raises(ConversionError, match=r"holds no converted model \(no model.json\)"):
        load_converted(tmp_path)


def test_description_that_does_not_fit_is_refused(converted):
    description = json.loads((converted / "model.json").read_text())
    description["shape"]["hidden"] = 7
    (converted / "model.json").write_text(json.dumps(description))
    with pytest.raises(
        ConversionError, match=r"do not fit its model.json \(deq.cell.down.kernel, "
    ):
        load_converted(converted)


def test_damaged_description_is_refused(converted):
    (converted / "model.json").write_text('{"shape": 3}')
    with pytest.raises(ConversionError, match="does not fit: model is missing"):
        load_converted(converted)


def test_damaged_parameters_are_refused(converted):
    for file in (converted / "parameters").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ConversionError, match="are missing or damaged"):
        load_converted(converted)
