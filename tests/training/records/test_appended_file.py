import errno
import os

import pytest

from deqjax.training.records._appended_file import AppendedFile


@pytest.fixture
def file(tmp_path):
    return AppendedFile(tmp_path / "folder" / "file")


def test_pieces_stand_in_order(file):
    for piece in (b"one\n", b"two\n"):
        file.append(piece)
        assert file.flush() is None
    assert file.path.read_bytes() == file.content() == b"one\ntwo\n"


def test_what_is_there_stays(file):
    file.path.parent.mkdir()
    file.path.write_bytes(b"old\n")
    file.append(b"new\n")
    file.flush()
    assert file.path.read_bytes() == b"old\nnew\n"


def test_failure_is_returned_and_counted(file, file_size_limit):
    file_size_limit(2)
    file.append(b"one\n")
    file.append(b"two\n")
    assert file.flush().errno == errno.EFBIG
    assert file.waiting == 2


def test_half_a_piece_is_taken_back(file, file_size_limit):
    file.append(b"one\n")
    file.flush()
    file_size_limit(6)  # takes half of the next
    file.append(b"two\n")
    file.flush()
    assert file.path.read_bytes() == b"one\n"
    assert file.content() == b"one\ntwo\n"


def test_half_a_piece_that_could_not_be_taken_back_goes_before_the_next(
    file, file_size_limit, monkeypatch
):
    def refuse(path, length):
        raise OSError(errno.EROFS, "Read-only file system")

    file.append(b"one\n")
    file.flush()
    file_size_limit(6)
    with monkeypatch.context() as patched:
        patched.setattr(os, "truncate", refuse)
        file.append(b"two\n")
        file.flush()
        assert file.path.read_bytes() == b"one\ntw"
        assert file.content() == b"one\ntwo\n"
        file.append(b"three\n")
        assert file.flush().errno == errno.EROFS
    file_size_limit(None)
    file.flush()
    assert file.path.read_bytes() == b"one\ntwo\nthree\n"


def test_ctrl_c_within_a_write_leaves_each_piece_once(file, monkeypatch):
    def interrupt(number):
        raise KeyboardInterrupt

    file.append(b"one\n")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            file.flush(sync=True)
    file.append(b"two\n")
    file.flush()
    assert file.path.read_bytes() == b"one\ntwo\n"


def test_disk_that_refuses_to_keep_what_it_took(file, monkeypatch):
    def refuse(number):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    file.append(b"one\n")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        assert file.flush(sync=True).errno == errno.EDQUOT
    assert file.waiting == 1
    file.flush(sync=True)
    assert file.path.read_bytes() == b"one\n"


def test_replacement_drops_all_before_and_nothing_after(file, file_size_limit):
    file.append(b"one\n")
    file.flush()
    file_size_limit(2)
    file.append(b"two\n")
    file.flush()
    file.replace(b"new\n")
    file.append(b"three\n")
    assert file.flush() is not None
    assert file.path.read_bytes() == b"one\n"
    assert file.content() == b"new\nthree\n"
    file_size_limit(None)
    file.flush()
    assert file.path.read_bytes() == b"new\nthree\n"


def test_file_that_is_deleted_goes_on_from_there(file):
    file.append(b"one\n")
    file.flush()
    file.path.unlink()
    file.append(b"two\n")
    assert file.flush() is None
    assert file.path.read_bytes() == b"two\n"
