import contextlib
import os
import threading

import pytest

from deqjax.data import DataError
from deqjax.data.text import _own_text
from deqjax.data.text._own_text import read_text


def test_newlines_stay_as_they_are_on_disk(tmp_path):
    (tmp_path / "text").write_bytes(b"a\r\nb\rc\n")
    assert read_text(tmp_path / "text") == "a\r\nb\rc\n"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text").write_text("at home")
    assert read_text("~/text") == "at home"


def test_a_byte_order_mark_is_left_out(tmp_path):
    (tmp_path / "text").write_bytes("naïve".encode("utf-8-sig"))
    assert read_text(tmp_path / "text") == "naïve"


# Several files


@pytest.fixture
def folder(tmp_path):
    texts = {"b.txt": "two", "a.txt": "one\n", "c/d.md": "three", ".git/x": "no", "empty.txt": ""}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_files_of_a_folder_follow_each_other_by_their_paths(folder):
    assert read_text(folder) == "one\ntwo\nthree"


def test_several_files_follow_each_other_as_they_are_given(folder):
    assert read_text([folder / "b.txt", str(folder / "a.txt")]) == "two\none\n"


def test_a_mark_is_left_out_of_every_file(folder):
    (folder / "b.txt").write_bytes("two".encode("utf-8-sig"))
    assert read_text(folder) == "one\ntwo\nthree"


# What is refused


@pytest.mark.parametrize("name", ["missing", "no/folder"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(DataError, match=f"/{name}' cannot be read .*: give the path of a UTF-8"):
        read_text(tmp_path / name)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_first_byte_that_is_no_utf_8_is_named(tmp_path, mark):
    (tmp_path / "text").write_bytes(mark + "naïve".encode("latin-1"))
    with pytest.raises(DataError, match=rf"no UTF-8 \(byte 0xef at offset {2 + len(mark)}\): conv"):
        read_text(tmp_path / "text")


def test_utf_16_is_refused(tmp_path):
    (tmp_path / "text").write_text("naïve", "utf-16")
    with pytest.raises(DataError, match="text' is UTF-16: convert it to UTF-8 first"):
        read_text(tmp_path / "text")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(DataError, match="text' is empty: give a file with text"):
        read_text(tmp_path / "text")


def test_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no text file in the folder '.*': put some into"):
        read_text(tmp_path)
    with pytest.raises(DataError, match=r"there is no text file in \[\]: give a file with text"):
        read_text([])


def test_a_folder_that_is_a_link_is_refused(folder):
    (folder / "link").symlink_to(folder / "c")
    with pytest.raises(DataError, match="/link' is a link to another folder: put the folder itse"):
        read_text(folder)


def test_an_endless_device_is_refused():
    with pytest.raises(
        DataError, match="'/dev/zero' is a device or a socket, which may have no end"
    ):
        read_text("/dev/zero")


def test_a_long_file_is_refused_unread(tmp_path):
    os.truncate(os.open(tmp_path / "text", os.O_CREAT | os.O_WRONLY), 10**10)
    with pytest.raises(DataError, match="text' has more than the 3000000000 bytes that are read"):
        read_text(tmp_path / "text")


def through_a_pipe(path, content):
    os.mkfifo(path)
    writer = threading.Thread(target=_write, args=(path, content), daemon=True)
    writer.start()
    return writer


def _write(path, content):
    with contextlib.suppress(BrokenPipeError):  # the reader has had enough
        path.write_bytes(content)


def test_a_pipe_is_read_to_its_end(tmp_path):
    through_a_pipe(tmp_path / "pipe", b"text\n" * 50_000)
    assert read_text(tmp_path / "pipe") == "text\n" * 50_000


def test_an_endless_pipe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_own_text, "_MOST_BYTES_OF_A_PIPE", 1000)
    through_a_pipe(tmp_path / "pipe", bytes(10**6)).join(0)
    with pytest.raises(DataError, match="pipe' has more than the 1000 bytes that are read: give a"):
        read_text(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["~no-such-user/text", "a\0b", ""])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(DataError, match="is no path of a text file"):
        read_text(path)
