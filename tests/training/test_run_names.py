import pytest

from deqjax.training import WorkdirError, newest_run, next_free
from deqjax.training._workdir import Workdir, write_config


def begin(path):
    path.mkdir(parents=True)
    write_config(Workdir(path), "stdlib", {}, {})


def test_next_free_is_the_path_itself_at_first(tmp_path):
    (tmp_path / "run").mkdir()
    assert next_free(tmp_path / "run") == tmp_path / "run"
    assert next_free(tmp_path / "absent" / "run") == tmp_path / "absent" / "run"


def test_next_free_counts_on(tmp_path):
    for name in ("run", "run-2", "run-x", "run-20-2", "other-7"):
        begin(tmp_path / name)
    assert next_free(tmp_path / "run") == tmp_path / "run-3"


def test_next_free_does_not_reuse_a_number(tmp_path):
    begin(tmp_path / "run-4")
    assert next_free(tmp_path / "run") == tmp_path / "run-5"


def test_newest_run_has_the_highest_number(tmp_path):
    for name in ("run", "run-9", "run-10"):
        begin(tmp_path / name)
    assert newest_run(tmp_path / "run") == tmp_path / "run-10"


def test_newest_run_without_a_run(tmp_path):
    with pytest.raises(WorkdirError, match=r"There is no run to resume in .*run; drop --resume"):
        newest_run(tmp_path / "run")


def test_a_folder_that_a_run_is_about_to_begin_in_is_taken(tmp_path):
    (tmp_path / "run" / "lock").mkdir(parents=True)
    (tmp_path / "run" / "lock" / "1").touch()
    assert next_free(tmp_path / "run") == tmp_path / "run-2"
    with pytest.raises(WorkdirError, match="no run to resume"):
        newest_run(tmp_path / "run")


def test_folders_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to("lock")
    with pytest.raises(WorkdirError, match=r"beside .*run cannot be looked at .*symbolic links"):
        next_free(tmp_path / "run")
