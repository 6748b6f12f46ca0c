"""Files that hold no plain arrays, more than arrays, or something else than their names say."""

import argparse
import json
import warnings

import numpy as np
import pytest
import torch

from deqjax import cli
from deqjax.convert import ConversionError, read_state_dict

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
IMMENSE = (10**6, 10**6)


@pytest.fixture
def saved(tmp_path):
    def save(content, name="model.pth", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


def refused(file, capsys):
    """The sentence, the same of the function and of the command."""
    with pytest.raises(ConversionError) as caught:
        read_state_dict(file)
    config, out = file.parent / "config.json", file.parent / "out"
    config.write_text(json.dumps({}))
    assert cli.main(["convert", str(file), "--config", str(config), "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == f"deqjax: error: {caught.value}"
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: torch.empty(2, device="meta"), "meta: a shape without numbers"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "quantized, torch.qint8",
        ),
        (lambda: torch.ones(2).to_sparse(), "sparse, torch.sparse_coo"),
        (lambda: torch.eye(2).to_sparse_csr(), "sparse, torch.sparse_csr"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
        (
            lambda: torch.ones(2, dtype=torch.complex32),
            "torch.complex32, which NumPy does not have",
        ),
    ],
    ids=["meta", "quantized", "sparse", "sparse_rows", "nested", "half_complex"],
)
def test_a_tensor_that_is_no_array_is_named(make, fault, saved, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about such tensors
        file = saved(WEIGHTS | {"odd": make()})
    assert f"no plain arrays of numbers: odd ({fault}); save the model" in refused(file, capsys)


def test_many_of_them_are_counted(saved, capsys):
    odd = {f"odd{i}": torch.empty(2, device="meta") for i in range(8)}
    sentence = refused(saved(WEIGHTS | odd), capsys)
    assert "odd4 (meta" in sentence
    assert "numbers) and 3 more; save" in sentence


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_immense_tensor_of_few_numbers_is_refused_before_memory_is_asked_for(
    dtype, saved, capsys
):
    file = saved(WEIGHTS | {"wide": torch.ones(1, dtype=dtype).expand(IMMENSE)})
    assert file.stat().st_size < 10_000
    sentence = refused(file, capsys)
    assert (
        f"wide in {file} has shape {IMMENSE}, 1,000,000,000,000 numbers, of which the" in sentence
    )
    assert "holds 1; save" in sentence


def test_many_wide_tensors_are_as_much_as_an_immense_one(saved, capsys):
    wide = {f"wide{i}": torch.ones(1).expand(2**23) for i in range(3)}
    assert "8,388,608 numbers, of which the file holds 1;" in refused(saved(wide), capsys)


def test_a_bias_of_one_number_is_read(saved):
    found = read_state_dict(saved({"bias": torch.ones(1).expand(24), "c": torch.ones(2).conj()}))
    np.testing.assert_array_equal(found["bias"], np.ones(24))


def test_conjugate_numbers_are_read(saved):
    values = torch.tensor([1 + 2j, 3.0])
    found = read_state_dict(saved({"a": values.conj()}))
    np.testing.assert_array_equal(found["a"], [1 - 2j, 3.0])


@pytest.mark.parametrize("older", [False, True], ids=["archive", "before_1_6"])
def test_what_is_not_unpickled_is_named(older, saved, capsys):
    content = {"model": WEIGHTS, "args": argparse.Namespace(rate=0.1), "best": np.float64(0.5)}
    sentence = refused(saved(content, _use_new_zipfile_serialization=not older), capsys)
    assert "argparse.Namespace" in sentence
    assert older or "multiarray.scalar" in sentence
    assert "save its state dict alone: torch.save(torch.load(FILE, weights_only=False)" in sentence
    assert "no checkpoint at all" not in sentence


@pytest.mark.parametrize("older", [False, True], ids=["archive", "before_1_6"])
def test_a_flipped_byte_is_read_right_or_refused(older, saved):
    """Bytes all over a small file; without checksums, the numbers themselves cannot be told."""
    file = saved(WEIGHTS, _use_new_zipfile_serialization=not older)
    whole = file.read_bytes()
    for place in range(0, len(whole), 3 if older else 7):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        file.write_bytes(flipped)
        try:
            found = read_state_dict(file)
        except ConversionError:
            continue
        if not older:
            assert list(found) == list(WEIGHTS)
            for key, tensor in WEIGHTS.items():
                np.testing.assert_array_equal(found[key], tensor.numpy())


def test_an_archive_without_checksums_is_read(saved):
    torch.serialization.set_crc32_options(False)
    try:
        file = saved(WEIGHTS)
    finally:
        torch.serialization.set_crc32_options(True)
    found = read_state_dict(file)
    np.testing.assert_array_equal(found["a.weight"], WEIGHTS["a.weight"].numpy())


def test_an_entry_marked_as_a_folder_is_damage(saved):
    """PyTorch would read nothing there and return whatever was in memory."""
    file = saved(WEIGHTS)
    content = bytearray(file.read_bytes())
    entry = content.rindex(b"model/data/0") - 46  # of the list at the end of the archive
    assert content[entry : entry + 4] == b"PK\1\2"
    content[entry + 38] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(ConversionError, match=r"damaged .*model/data/0 is marked as a folder"):
        read_state_dict(file)


def test_a_pointer_of_git_lfs_is_told(tmp_path, capsys):
    file = tmp_path / "model.bin"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    assert "is a pointer of Git LFS, not the checkpoint itself" in refused(file, capsys)


def test_each_format_is_read_under_the_name_of_the_other(saved, tmp_path):
    assert list(read_state_dict(saved(WEIGHTS, "model.safetensors"))) == list(WEIGHTS)
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    safetensors.save_file(WEIGHTS, tmp_path / "model.bin")
    found = read_state_dict(tmp_path / "model.bin")
    np.testing.assert_array_equal(found["a.weight"], WEIGHTS["a.weight"].numpy())


def test_safetensors_of_eight_bits_are_read_in_float32(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    values = torch.tensor([0.5, -3.0])
    for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        safetensors.save_file({name: values.to(dtype)}, tmp_path / f"{name}.safetensors")
        found = read_state_dict(tmp_path / f"{name}.safetensors")[name]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.numpy())
