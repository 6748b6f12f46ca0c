import errno
import json
import re
import tempfile
import threading

import pytest

from deqjax.training._claim import Claim, Request, claim_free
from deqjax.training._workdir import Workdir, WorkdirError, read_config

CONFIG = {"steps": 100, "optimizer": {"learning_rate": 0.001, "betas": (0.9, 0.99)}, "tags": {}}
TASK = {"class": {"module": "mine", "name": "Mine", "file": None}, "kept": {"classes": 3}}


def start(path, experiment="stdlib", config=CONFIG, resume=False, **options):
    """Begin a run, which ends at once."""
    request = Request(experiment, config, resume, **options)
    with Claim(Workdir(path), request) as claim:
        claim.begin(TASK)
    return claim.workdir


def checkpointed(path, **options):
    workdir = start(path, **options)
    (workdir.checkpoints / "10").mkdir()
    return workdir


def changed(**fields):
    return CONFIG | {"optimizer": CONFIG["optimizer"] | fields}


def refused(*sentences):
    return pytest.raises(WorkdirError, match=".*".join(re.escape(part) for part in sentences))


def test_a_run_makes_its_folder(tmp_path):
    workdir = start(tmp_path / "runs" / "one")
    assert workdir.checkpoints.is_dir()
    made = {path.name for path in workdir.path.iterdir()}
    assert made == {"config.json", "task.json", "checkpoints"}
    assert json.loads(workdir.task.read_text()) == TASK


def test_a_run_that_never_begins_leaves_nothing_behind(tmp_path):
    with Claim(Workdir(tmp_path / "runs" / "one"), Request("stdlib", CONFIG)) as claim:
        assert claim.workdir.checkpoints.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    with Claim(Workdir(tmp_path / "runs" / "one"), Request("stdlib", CONFIG)):
        pass
    assert list((tmp_path / "runs" / "one").iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_use_is_refused_whatever_is_asked_for(tmp_path, resume):
    request = Request("stdlib", CONFIG, resume)
    with Claim(Workdir(tmp_path), Request("stdlib", CONFIG)) as claim:
        claim.begin(TASK)
        before = claim.workdir.config.read_bytes()
        with refused("is in use by process "):
            Claim(Workdir(tmp_path), request)
        assert claim.workdir.config.read_bytes() == before
    assert Claim(Workdir(tmp_path), request).release() is None


def test_runs_that_start_at_the_same_moment_have_a_folder_each(tmp_path):
    claims, together = [], threading.Barrier(4)

    def claim():
        together.wait()
        claims.append(claim_free(tmp_path / "run", Request("stdlib", CONFIG)))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = sorted(each.workdir.path.name for each in claims)
    for each in claims:
        each.release()
    assert len(set(names)) == len(claims) == 4
    assert names[0] == "run"


def test_a_free_name_does_not_help_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("cannot be written to (Not a directory)"):
        claim_free(tmp_path / "file" / "run", Request("stdlib", CONFIG))


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
    with refused("learning_rate: 0.001 -> 0.002", "(--optimizer.learning_rate 0.001)"):
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
        start(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["checkpoints", "lock"])
def test_folder_that_cannot_be_read(tmp_path, name):
    (tmp_path / name).symlink_to(name)
    with refused(f"The folder {tmp_path} cannot be ", "symbolic links"):
        start(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_checkpoints_without_a_config(tmp_path, resume):
    checkpointed(tmp_path).config.unlink()
    with refused("holds checkpoints but no config.json; put that back"):
        start(tmp_path, resume=resume)
