import errno
import json
import re
from pathlib import Path

import pytest

from deqjax.training._workdir import (
    Workdir,
    WorkdirError,
    read_config,
    write_atomically,
    write_config,
)

CONFIG = {"steps": 100, "optimizer": {"learning_rate": 0.001, "betas": (0.9, 0.99)}, "tags": {}}


def refused(*sentences):
    return pytest.raises(WorkdirError, match=".*".join(re.escape(part) for part in sentences))


def test_places():
    workdir = Workdir.at("runs/one")
    assert workdir == Workdir(Path("runs/one"))
    places = [workdir.config, workdir.task, workdir.metrics, workdir.events, workdir.picture]
    assert {place.parent for place in places} == {workdir.path}


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert Workdir.at("~/x").path == Path("/home/ada/x")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "The name of the run's folder is empty; name one"),
        ("~no-such-user/x", "The folder '~no-such-user/x' cannot be used (Could not determine"),
        ("a" * 300, "cannot be used (File name too long); choose another"),
        ("a\0b", "The folder 'a\\x00b' cannot be used (embedded null byte); choose another"),
        ("a\ud800", r"The folder 'a\ud800' cannot be used (its path, as this system's language"),
        ("\udcff/run", r"The folder '\udcff/run' cannot be used (its path"),
    ],
)
def test_names_that_no_folder_can_have(name, sentence):
    with refused(sentence):
        Workdir.at(name)


@pytest.mark.parametrize("name", ["[red]", "[/b]", "a run", "$x^$", "ü"])
def test_names_that_a_folder_can_have(tmp_path, name):
    write(tmp_path / name)
    assert read_config(tmp_path / name)[0] == "stdlib"


def write(path):
    path.mkdir(parents=True, exist_ok=True)
    write_config(Workdir(path), "stdlib", CONFIG, {"class": "Mine"})
    return Workdir(path)


def test_config_is_recorded_with_versions(tmp_path):
    found = json.loads(write(tmp_path).config.read_text())
    assert set(found["versions"]) == {"python", "deqjax", "jax", "flax"}
    assert read_config(tmp_path) == ("stdlib", json.loads(json.dumps(CONFIG)))
    assert json.loads(Workdir(tmp_path).task.read_text()) == {"class": "Mine"}


def test_folder_without_a_run(tmp_path):
    with refused("There is no run in", "(no config.json); name the folder of a run"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"experiment": "std', "config.json is damaged (Unterminated string"),
        (b"\xff\xfe", "config.json is damaged ("),
        (b"[" * 100_000, "config.json is damaged ("),
        (rb'{"experiment": "a\ud800", "config": {}}', "config.json is damaged ("),
        (rb'{"experiment": "a", "config": {"name": "\udcff"}}', "config.json is damaged ("),
        (b"[]", "config.json is not a run's config"),
        (b'{"experiment": 3, "config": {}}', "config.json is not a run's config"),
    ],
)
def test_damaged_config(tmp_path, content, sentence):
    (tmp_path / "config.json").write_bytes(content)
    with refused(sentence, "put it right"):
        read_config(tmp_path)


def test_config_that_is_a_folder(tmp_path):
    (tmp_path / "config.json").mkdir()
    with refused("config.json cannot be read (Is a directory)"):
        read_config(tmp_path)


def test_failed_replacement_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
