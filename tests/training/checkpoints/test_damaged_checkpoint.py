import os
import shutil

import numpy as np
import pytest

from deqjax.training import CheckpointError, Checkpoints

SAVED = (3, 5, 7)


def state(step):
    generator = np.random.default_rng(step)
    return {"w": generator.normal(size=(40, 50)), "b": np.float32([step, np.nan])}


class Position:
    """Stands for a data iterator."""

    def __init__(self, position=0):
        self.position = position

    def get_state(self):
        return {"next_index": self.position}

    def set_state(self, found):
        self.position = found["next_index"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in SAVED:
            checkpoints.save(step, state(step), Position(step), {"step": step})
    return folder


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def halve(file):
    os.truncate(file, file.stat().st_size // 2)


def files_of(step_folder):
    return sorted(p.relative_to(step_folder) for p in step_folder.rglob("*") if p.is_file())


def recover(folder, quarantine=None):
    said, position = [], Position()
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_newest(
            state(0), position, say=said.append, quarantine=quarantine
        )
    return found, position.position, said


def assert_is(found, position, step):
    assert (found[0], found[2], position) == (step, {"step": step}, step)
    np.testing.assert_array_equal(found[1]["w"], state(step)["w"])
    np.testing.assert_array_equal(found[1]["b"], state(step)["b"])


# without the list of its files a step counts by the checksums of its leaves
REDUNDANT = (os.remove, "files.json")


@pytest.mark.parametrize("damage", [flip, halve, os.remove], ids=["flipped", "cut", "removed"])
def test_damage_of_any_file_is_named_and_the_newest_good_step_is_used(tmp_path, pristine, damage):
    files = [file for file in files_of(pristine / "7") if (damage, file.name) != REDUNDANT]
    assert len(files) > 5
    for number, file in enumerate(files):
        if (pristine / "7" / file).stat().st_size == 0 and damage is not os.remove:
            continue  # nothing in it to damage
        folder = tmp_path / str(number)
        shutil.copytree(pristine, folder)
        damage(folder / "7" / file)
        found, position, said = recover(folder, tmp_path / f"quarantine{number}")
        assert_is(found, position, 5)
        assert f"The checkpoint in {folder}/7 is damaged" in said[0], file
        assert (tmp_path / f"quarantine{number}" / "7").is_dir()


@pytest.mark.parametrize("damage", [flip, halve, os.remove], ids=["flipped", "cut", "removed"])
def test_without_the_list_no_damage_gives_another_state(tmp_path, pristine, damage):
    """As after a crash between a step and the list of its files."""
    for number, file in enumerate(files_of(pristine / "7")):
        if file.name == "files.json" or (pristine / "7" / file).stat().st_size == 0:
            continue
        folder = tmp_path / str(number)
        shutil.copytree(pristine, folder)
        (folder / "7" / "files.json").unlink()
        damage(folder / "7" / file)
        found, position, said = recover(folder)
        assert_is(found, position, 5 if said else 7)


@pytest.mark.parametrize("item", ["state", "meta"])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_an_item_of_another_step_is_noticed(tmp_path, pristine, item, listed):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    shutil.rmtree(folder / "7" / item)
    shutil.copytree(folder / "3" / item, folder / "7" / item)
    if not listed:
        (folder / "7" / "files.json").unlink()
    found, position, said = recover(folder)
    assert_is(found, position, 5)
    assert len(said) == 1


def test_an_empty_folder_is_noticed(tmp_path, pristine):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    (folder / "9").mkdir()
    found, position, said = recover(folder)
    assert_is(found, position, 7)
    assert f"{folder}/9 is damaged" in said[0]


def test_a_step_renamed_is_noticed(tmp_path, pristine):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    shutil.copytree(folder / "3", folder / "9")
    found, position, _ = recover(folder)
    assert_is(found, position, 7)


def test_several_damaged_steps_are_skipped(tmp_path, pristine):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    for step in ("5", "7"):
        flip(folder / step / "meta" / "metadata")
    found, position, said = recover(folder, tmp_path / "quarantine")
    assert_is(found, position, 3)
    assert sorted(p.name for p in (tmp_path / "quarantine").iterdir()) == ["5", "7"]
    assert len(said) == 4


def test_with_none_left_nothing_is_changed(tmp_path, pristine):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    for step in SAVED:
        flip(folder / str(step) / "meta" / "metadata")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(
        CheckpointError, match=r"no undamaged checkpoint .* \(passed over: 7, 5, 3\)"
    ):
        recover(folder, tmp_path / "quarantine")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert not (tmp_path / "quarantine").exists()


def test_a_quarantine_that_is_a_file_is_named(tmp_path, pristine):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    flip(folder / str(SAVED[-1]) / "meta" / "metadata")
    (tmp_path / "quarantine").write_text("")
    with pytest.raises(CheckpointError, match=r"could not be moved .* move that away yourself"):
        recover(folder, tmp_path / "quarantine")


def test_the_number_of_a_damaged_step_is_written_anew(tmp_path, pristine):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    flip(folder / "7" / "meta" / "metadata")
    with Checkpoints(folder) as checkpoints:
        checkpoints.restore_newest(
            state(0), say=lambda line: None, quarantine=tmp_path / "quarantine"
        )
        checkpoints.save(7, state(7), Position(7), {"step": 7})
    found, position, said = recover(folder)
    assert_is(found, position, 7)
    assert not said


def test_damage_is_one_quiet_sentence(tmp_path, pristine, capfd):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    (folder / "7" / "files.json").unlink()
    biggest = max((folder / "7/state").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(biggest, 200)
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointError, match="is damaged") as error,
    ):
        checkpoints.restore(state(0))
    assert "move that folder away" in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
