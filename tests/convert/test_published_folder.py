"""Published models from a folder or by name: which files are taken, and what is missing."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from reference_attractor import BASE, Reference, random_state

from deqjax import cli
from deqjax.convert import (
    AttractorConfig,
    ConversionError,
    convert_attractor,
    convert_checkpoint,
    load_converted,
    read_model,
    read_state_dict,
)
from deqjax.convert._source import find_source

CONFIG = BASE | {"mlp_class_name": "GatedMLP", "adjoint_grad_clip": 0.5, "model_type": "attractor"}
STATE = random_state(CONFIG)
TOKENS = np.arange(8).reshape(2, 4)


def tensors(state=STATE):
    return {key: torch.from_numpy(value) for key, value in state.items()}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "published"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(CONFIG))
    (place / "README.md").write_text("A model.")
    return place


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.pth"])
def test_a_folder_is_converted_by_the_command(folder, name, capsys):
    compiled = {f"_orig_mod.{key}": tensor for key, tensor in tensors().items()}
    torch.save({"model": compiled, "step": 3}, folder / name)
    out = folder.parent / "ours"
    assert cli.main(["convert", str(folder), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "relu2, gated" in printed
    assert "2 and 1" in printed
    model = load_converted(out)
    assert model.shape == convert_attractor(STATE, CONFIG).shape
    assert model.deq.adjoint == convert_attractor(STATE, CONFIG).deq.adjoint
    context = Reference(STATE, CONFIG).context(TOKENS)
    np.testing.assert_allclose(model.inputs(TOKENS).context, context, atol=1e-5)


def test_parts_of_a_checkpoint_are_put_together(folder):
    names = list(STATE)
    parts = {"model-1.bin": names[:5], "model-2.bin": names[5:]}
    for part, keys in parts.items():
        torch.save({key: tensors()[key] for key in keys}, folder / part)
    index = {"weight_map": {key: part for part, keys in parts.items() for key in keys}}
    (folder / "model.bin.index.json").write_text(json.dumps(index))
    assert read_model(folder).shape == AttractorConfig(**CONFIG).shape()


def test_safetensors_are_read_in_float32(folder):
    numpy = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    file = folder / "model.safetensors"
    half = {key: tensor.bfloat16() for key, tensor in tensors().items()}
    del half["lm_head.weight"]  # tied, so safetensors keeps one
    numpy.save_file(half, file)
    found = read_state_dict(file)
    assert found.keys() == half.keys()
    for key, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, half[key].float().numpy())
    assert read_model(folder).shape.gated
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ConversionError, match="is damaged or no safetensors"):
        read_state_dict(file)


def test_missing_safetensors_are_one_sentence(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConversionError, match=r"needs safetensors, .* 'deqjax\[torch\]'"):
        read_model(folder)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], ("model.safetensors",)),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], ("pytorch_model.bin",)),
    ],
)
def test_the_same_weights_twice_and_what_lies_beside_them_do_not_matter(tmp_path, files, chosen):
    for name in (*files, "config.json"):
        (tmp_path / name).write_bytes(b"")
    found = find_source(tmp_path, None)
    assert found.weights == tuple(tmp_path / name for name in chosen)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "holds no weights"),
        (["a.bin", "b.bin"], r"several checkpoints \(a.bin, b.bin\); name the file"),
        (["x.index.json"], "is no index of a checkpoint's parts"),
    ],
)
def test_a_folder_without_one_model_is_refused(folder, files, sentence):
    for name in files:
        (folder / name).write_text("{}")
    with pytest.raises(ConversionError, match=sentence):
        read_model(folder)


def test_a_file_needs_its_configuration(folder):
    torch.save(tensors(), folder / "model.pth")
    with pytest.raises(ConversionError, match="give --config, a JSON file"):
        read_model(folder / "model.pth")
    assert read_model(folder / "model.pth", folder / "config.json").shape.gated


@pytest.fixture
def hub(monkeypatch):
    """A stub of huggingface_hub, whose downloads a test says."""
    stub = types.ModuleType("huggingface_hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    return stub


def test_a_name_is_downloaded(folder, hub, monkeypatch):
    torch.save(tensors(), folder / "model.pt")
    asked = []

    def snapshot_download(name, allow_patterns, ignore_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    hub.snapshot_download = snapshot_download
    monkeypatch.chdir(folder.parent)
    out = folder.parent / "ours"
    assert convert_checkpoint("some-one/attractor_140M", None, out).shape.gated
    assert asked[0][0] == "some-one/attractor_140M"
    assert {"config.json", "*.safetensors", "*.pt"} <= set(asked[0][1])


def test_a_missing_network_is_one_sentence(hub, tmp_path, monkeypatch, capsys):
    def snapshot_download(name, allow_patterns, ignore_patterns):
        raise OSError("Name or service not known\nmore lines")

    hub.snapshot_download = snapshot_download
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", "some-one/attractor", "--out", "ours"]) == 1
    error = capsys.readouterr().err
    assert "there is no folder some-one/attractor" in error
    assert "(Name or service not known)" in " ".join(error.split())


def test_a_missing_package_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConversionError, match="needs huggingface_hub, which is not installed"):
        read_model("some-one/attractor")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"qk_bias": True}, "qk_bias is True"),
        ({"clip_qkv": 8.0}, "clip_qkv is 8.0"),
        ({"num_attention_heads": 3}, "makes no model: width 8 must be a multiple of heads 3"),
        ({"nonlin_name": "Tanh"}, "nonlin_name is 'Tanh'"),
    ],
)
def test_a_configuration_of_another_model_is_refused(changes, sentence):
    with pytest.raises(ConversionError, match=sentence):
        convert_attractor(STATE, CONFIG | changes)


def test_every_key_that_does_not_fit_is_listed():
    state = dict(STATE)
    del state["transformer.prelude.0.norm_1.weight"]
    state["transformer.prelude.0.attn.extra"] = np.ones(1, np.float32)
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(ConversionError) as caught:
        convert_attractor(state, CONFIG)
    for part in ("prelude.0.norm_1.weight", "attn.extra", "to which tie_embeddings ties it"):
        assert part in str(caught.value)
