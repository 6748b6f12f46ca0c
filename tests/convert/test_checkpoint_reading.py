"""Reading what torch.save wrote, and refusing everything else in one sentence."""

import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch

from deqjax.convert import ConversionError, read_state_dict

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(folder, content):
    path = folder / "model.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model_state_dict": WEIGHTS, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}},
        {f"module.{key}": value for key, value in WEIGHTS.items()},
        {"state_dict": {f"module.{key}": value for key, value in WEIGHTS.items()}},
    ],
    ids=["bare", "nested", "parallel", "nested_parallel"],
)
def test_state_dict_is_found(content, tmp_path):
    found = read_state_dict(saved(tmp_path, content))
    assert list(found) == list(WEIGHTS)
    for key, tensor in WEIGHTS.items():
        np.testing.assert_array_equal(found[key], tensor.numpy())


def test_modules_of_that_name_are_not_a_prefix(tmp_path):
    content = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(read_state_dict(saved(tmp_path, content))) == ["module.a", "b"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_become_float32(dtype, tmp_path):
    found = read_state_dict(saved(tmp_path, {"a": torch.tensor([0.5, -3.0], dtype=dtype)}))
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], [0.5, -3.0])


def test_parameters_that_want_gradients_are_read(tmp_path):
    found = read_state_dict(saved(tmp_path, {"a": torch.nn.Parameter(torch.ones(2))}))
    np.testing.assert_array_equal(found["a"], [1, 1])


def unreadable(folder):
    whole = saved(folder, {"a": torch.arange(4000.0)}).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # inside the tensor, where PyTorch itself checks nothing
    archive = folder / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("note", "no tensors")
    return {
        "empty": b"",
        "cut_early": whole[:10],
        "cut_late": whole[:-30],
        "flipped": bytes(flipped),
        "text": b"not a checkpoint\n" * 9,
        "archive": archive.read_bytes(),
        "pickle": pickle.dumps({"a": 1}),
        "code": pickle.dumps(print),
    }


@pytest.mark.parametrize(
    "kind",
    ["empty", "cut_early", "cut_late", "flipped", "text", "archive", "pickle", "code"],
)
def test_unreadable_file_is_refused(kind, tmp_path):
    path = tmp_path / "bad.pth"
    path.write_bytes(unreadable(tmp_path)[kind])
    with pytest.raises(ConversionError, match=r"bad\.pth is (damaged|not a checkpoint)"):
        read_state_dict(path)


def test_whole_model_is_refused(tmp_path):
    with pytest.raises(ConversionError, match=r"holds torch\.nn\.\S+Linear, .* its state_dict\(\)"):
        read_state_dict(saved(tmp_path, torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([torch.ones(1)], "holds a list, not a state dict"),
        (torch.ones(1), "holds a Tensor, not a state dict"),
        ({}, "holds 0 state dicts"),
        ({"epoch": 3, "lr": 0.1}, r"holds 0 state dicts \(none among: epoch, lr\)"),
        ({"model": WEIGHTS, "average": WEIGHTS}, r"holds 2 state dicts \(model, average\)"),
        ({**WEIGHTS, "epoch": 3}, r"tensors and other things side by side \(epoch\)"),
    ],
    ids=["list", "tensor", "nothing", "numbers", "two", "mixed"],
)
def test_other_content_is_refused(content, sentence, tmp_path):
    with pytest.raises(ConversionError, match=sentence):
        read_state_dict(saved(tmp_path, content))


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_no_file_is_refused(name, tmp_path):
    with pytest.raises(ConversionError, match="there is no file"):
        read_state_dict(tmp_path / name)


def test_missing_torch_is_named_with_its_extra(tmp_path, monkeypatch):
    path = saved(tmp_path, WEIGHTS)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConversionError, match=r"needs torch, .*pip install 'deqjax\[torch\]'"):
        read_state_dict(path)
