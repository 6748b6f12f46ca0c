import socket
import subprocess
import sys
import tempfile

import pytest
import tensorflow_datasets as tfds

from deqjax.data import DataError
from deqjax.data._prepare import prepared
from deqjax.data.text import _stdlib_corpus
from deqjax.data.text._stdlib_corpus import StdlibCorpus, split_of

# Both seed `random` alike, as two processes of one training do, and start at the same moment.
RIVAL = """
import pathlib, random, sys, time
from deqjax.data.text import _stdlib_corpus
from deqjax.data.text._text import load_bytes
_, library, directory, own, other = sys.argv
_stdlib_corpus.standard_library = lambda: pathlib.Path(library)
random.seed(0)
pathlib.Path(own).touch()
while not pathlib.Path(other).exists():
    time.sleep(0.001)
sys.stdout.buffer.write(load_bytes("train", directory=directory).tobytes())
assert "tensorflow" not in sys.modules
"""


def train_text(library):
    chosen = [path for path in sorted(library) if split_of(path) == "train"]
    return b"".join(library[path] + b"\0" for path in chosen)


def read_train(builder):
    source = builder.as_data_source("train")
    return b"".join(source[i]["text"] + b"\0" for i in range(len(source)))


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def test_examples_are_the_files_in_their_order(library, tmp_path):
    assert read_train(prepared(StdlibCorpus, directory=tmp_path / "data")) == train_text(library)


def test_prepared_data_are_read_without_writing(library, tmp_path, monkeypatch):
    prepared(StdlibCorpus, directory=tmp_path / "data")
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: pytest.fail("prepared twice"))
    assert read_train(prepared(StdlibCorpus, directory=tmp_path / "data")) == train_text(library)


@pytest.mark.usefixtures("library")
def test_preparing_prints_nothing(tmp_path, capfd):
    prepared(StdlibCorpus, directory=tmp_path / "data")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("library")
def test_progress_bars_of_other_data_sets_come_back(tmp_path):
    tfds.display_progress_bar(enable=True)
    prepared(StdlibCorpus, directory=tmp_path / "data")
    assert tfds.core.utils.tqdm_utils._active


@pytest.mark.usefixtures("library")
def test_preparing_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("opened a socket"))
    prepared(StdlibCorpus, directory=tmp_path / "data")


@pytest.mark.usefixtures("library")
def test_only_the_data_set_stays_behind(tmp_path):
    prepared(StdlibCorpus, directory=tmp_path / "data")
    assert entries(tmp_path / "data") == ["stdlib_corpus"]


def test_two_processes_at_once_read_the_same_data(library, tmp_path):
    root, flags = _stdlib_corpus.standard_library(), [tmp_path / "first", tmp_path / "second"]
    commands = [
        [sys.executable, "-c", RIVAL, root, tmp_path / "data", own, other]
        for own, other in (flags, flags[::-1])
    ]
    rivals = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    try:
        texts = [rival.communicate(timeout=60)[0] for rival in rivals]
    finally:
        for rival in rivals:
            rival.kill()
    assert texts == [train_text(library)] * 2


def test_who_finishes_second_reads_the_first_copy(library, tmp_path, monkeypatch):
    directory, prepare, calls = tmp_path / "data", StdlibCorpus.download_and_prepare, []

    def overtaken(builder, **options):
        calls.append(builder)
        prepare(builder, **options)
        if len(calls) == 1:
            prepared(StdlibCorpus, directory=directory)  # the other process, from start to end

    monkeypatch.setattr(StdlibCorpus, "download_and_prepare", overtaken)
    builder = prepared(StdlibCorpus, directory=directory)
    assert (len(calls), read_train(builder)) == (2, train_text(library))
    assert entries(directory) == ["stdlib_corpus"]


@pytest.mark.usefixtures("library")
def test_a_failed_preparation_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    def fails(builder, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(StdlibCorpus, "download_and_prepare", fails)
    with pytest.raises(KeyboardInterrupt):
        prepared(StdlibCorpus, directory=tmp_path / "data")
    assert not list((tmp_path / "data").rglob("1.0.0"))
    assert entries(tmp_path / "data") == ["stdlib_corpus"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"/file/data' cannot be written \(.*\): choose another one"
    ):
        prepared(StdlibCorpus, directory=tmp_path / "file" / "data")


def test_an_incomplete_data_set_is_refused(tmp_path):
    folder = StdlibCorpus(data_dir=tmp_path).data_dir
    tfds.core.Path(folder).mkdir(parents=True)
    with pytest.raises(ValueError, match="is incomplete: delete that folder"):
        prepared(StdlibCorpus, directory=tmp_path)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("content", ["", "{", '{"nbme": 1}', '{"version": "2.0.0"}'])
def test_a_damaged_description_is_refused(tmp_path, content):
    folder = prepared(StdlibCorpus, directory=tmp_path).data_path
    (folder / "dataset_info.json").write_text(content)
    with pytest.raises(DataError, match=r"is damaged \(.*\): delete that folder, and the next"):
        prepared(StdlibCorpus, directory=tmp_path)


@pytest.mark.usefixtures("library")
def test_a_damaged_description_is_named_by_its_folder(tmp_path):
    folder = prepared(StdlibCorpus, directory=tmp_path).data_path
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(DataError) as caught:
        prepared(StdlibCorpus, directory=tmp_path)
    assert f"the data set in {str(folder)!r} is damaged" in str(caught.value)
