import errno
import json
import re
import tempfile

import pytest

from deqjax.training._workdir import (
    Workdir,
    WorkdirError,
    newest_run,
    next_free,
    prepare_workdir,
    read_config,
    write_atomically,
)

CONFIG = {"steps": 100, "optimizer": {"learning_rate": 0.001, "betas": (0.9, 0.99)}, "tags": {}}


def start(path, experiment="stdlib", config=CONFIG, resume=False, **options):
    return prepare_workdir(path, experiment=experiment, config=config, resume=resume, **options)


def checkpointed(path, **options):
    workdir = start(path, **options)
    (workdir.checkpoints / "10").mkdir()
    return workdir


def changed(**fields):
    return CONFIG | {"optimizer": CONFIG["optimizer"] | fields}


def refused(*sentences):
    return pytest.raises(WorkdirError, match=".*".join(re.escape(part) for part in sentences))


def test_places(tmp_path):
    workdir = start(tmp_path / "runs" / "one")
    assert workdir == Workdir(tmp_path / "runs" / "one")
    assert workdir.checkpoints.is_dir()
    assert [workdir.config.name, workdir.metrics.name, workdir.events.name, workdir.picture.name]
    assert [path.name for path in workdir.path.iterdir() if path.is_file()] == ["config.json"]


def test_config_is_recorded_with_versions(tmp_path):
    found = json.loads(start(tmp_path).config.read_text())
    assert set(found["versions"]) == {"python", "deqjax", "jax", "flax"}
    assert read_config(tmp_path) == ("stdlib", json.loads(json.dumps(CONFIG)))


def test_resume_with_the_same_config(tmp_path):
    checkpointed(tmp_path)
    assert start(tmp_path, resume=True).path == tmp_path


def test_run_without_checkpoint_may_start_over(tmp_path):
    start(tmp_path)
    start(tmp_path, config=changed(learning_rate=0.5))
    assert read_config(tmp_path)[1]["optimizer"]["learning_rate"] == 0.5


def test_resume_without_a_run(tmp_path):
    with refused("no run to resume in", "new; drop --resume"):
        start(tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_start_over_a_run(tmp_path):
    checkpointed(tmp_path)
    with refused(str(tmp_path), "already holds a run of stdlib; add --resume", "another --workdir"):
        start(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_other_experiment(tmp_path, resume):
    start(tmp_path, experiment="digits")
    with refused("holds a run of digits, not of stdlib"):
        start(tmp_path, resume=resume)


def test_changed_fields_are_listed(tmp_path):
    checkpointed(tmp_path)
    config = changed(learning_rate=0.002) | {"steps": 200}
    with refused("steps: 100 -> 200, optimizer.learning_rate: 0.001 -> 0.002); resume it with"):
        start(tmp_path, config=config, resume=True)


def test_fields_that_came_or_went_are_listed(tmp_path):
    checkpointed(tmp_path)
    with refused("tags: {} -> absent, seed: absent -> 1)"):
        config = {name: value for name, value in CONFIG.items() if name != "tags"} | {"seed": 1}
        start(tmp_path, config=config, resume=True)


@pytest.mark.parametrize("name", ["optimizer.learning_rate", "optimizer"])
def test_field_that_may_change_is_recorded(tmp_path, name):
    checkpointed(tmp_path)
    config = changed(learning_rate=0.002)
    start(tmp_path, config=config, resume=True, may_change=[name])
    assert read_config(tmp_path)[1]["optimizer"]["learning_rate"] == 0.002


def test_may_change_means_whole_names(tmp_path):
    checkpointed(tmp_path)
    with refused("learning_rate: 0.001 -> 0.002"):
        start(tmp_path, config=changed(learning_rate=0.002), resume=True, may_change=["opt"])


def test_refusal_leaves_the_run_alone(tmp_path):
    before = checkpointed(tmp_path).config.read_bytes()
    with refused("another config"):
        start(tmp_path, config=changed(learning_rate=0.002), resume=True)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_file_in_the_way(tmp_path, below):
    (tmp_path / "file").write_text("")
    with refused("file", "cannot be written to (", "choose another --workdir"):
        start(tmp_path / "file" / below)


def test_read_only_folder(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with refused("cannot be written to (Read-only file system)"):
        start(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_checkpoints_without_a_config(tmp_path, resume):
    checkpointed(tmp_path).config.unlink()
    with refused("holds checkpoints but no config.json; put that back"):
        start(tmp_path, resume=resume)


def test_folder_without_a_run(tmp_path):
    with refused("There is no run in", "(no config.json); name the folder of a run"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"experiment": "std', "config.json is damaged (Unterminated string"),
        (b"\xff\xfe", "config.json is damaged ("),
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


def test_next_free_is_the_path_itself_at_first(tmp_path):
    (tmp_path / "run").mkdir()
    assert next_free(tmp_path / "run") == tmp_path / "run"
    assert next_free(tmp_path / "absent" / "run") == tmp_path / "absent" / "run"


def test_next_free_counts_on(tmp_path):
    for name in ("run", "run-2", "run-x", "run-20-2", "other-7"):
        start(tmp_path / name)
    assert next_free(tmp_path / "run") == tmp_path / "run-3"


def test_next_free_does_not_reuse_a_number(tmp_path):
    start(tmp_path / "run-4")
    assert next_free(tmp_path / "run") == tmp_path / "run-5"


def test_newest_run_has_the_highest_number(tmp_path):
    for name in ("run", "run-9", "run-10"):
        start(tmp_path / name)
    assert newest_run(tmp_path / "run") == tmp_path / "run-10"


def test_newest_run_without_a_run(tmp_path):
    with refused("There is no run to resume in", "run; drop --resume"):
        newest_run(tmp_path / "run")
