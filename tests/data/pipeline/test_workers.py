import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from deqjax.data import Augmentation, DataError, image_evaluation_batches, image_train_batches
from deqjax.data.pipeline import WorkerBatches
from image_samples import classification, numbered

IMAGES = classification(23)  # 5 batches an epoch

# Two workers, of which one is killed; then one that waits, and one that only begins, to be left
# alone by whatever ends this.
SCRIPT = """
import multiprocessing, os, signal, sys, threading, time
from deqjax.data import Augmentation, DataError, image_train_batches
from image_samples import classification

def batches(workers):
    return image_train_batches(
        classification(), batch_size=4, seed=0, augmentation=Augmentation(), workers=workers
    )

if __name__ == "__main__":
    if sys.argv[1] == "killed":
        watched = batches(2)
        next(watched)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        start = time.monotonic()
        try:
            for _ in range(100):
                next(watched)
        except DataError as error:
            print(error)
        print(time.monotonic() - start)
        print(len(multiprocessing.active_children()))
    left = batches(1)
    next(left)
    if sys.argv[1] == "killed":
        late = batches(1)
        threading.Thread(target=next, args=(late,), daemon=True).start()
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.01)
    print("ready", flush=True)
    if sys.argv[1] == "killed":
        time.sleep(300)
"""


def take(batches, count):
    chosen = list(itertools.islice(batches, count))
    return [np.stack(leaves) for leaves in zip(*chosen, strict=True)]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def train(workers):
    return image_train_batches(
        IMAGES,
        batch_size=4,
        seed=0,
        augmentation=Augmentation("crop_flip", padding=2),
        workers=workers,
    )


@pytest.fixture(scope="module", params=[1, 2])
def run(request):
    """Batches by workers: 3, a position, 6 more; the 6 again by both ways to resume."""
    with contextlib.closing(train(request.param)) as batches:
        first, state, then = take(batches, 3), json.dumps(batches.get_state()), take(batches, 6)
        batches.set_state(json.loads(state))
        again = take(batches, 6)
    with contextlib.closing(train(request.param)) as resumed:
        resumed.set_state(json.loads(state))
        return {"first": first, "then": then, "again": again, "resumed": take(resumed, 6)}


def test_workers_change_no_batch(run):
    found = [np.concatenate(leaves) for leaves in zip(run["first"], run["then"], strict=True)]
    assert_same(found, take(train(0), 9))


@pytest.mark.parametrize("way", ["again", "resumed"])
def test_a_position_resumes_with_as_many_workers(run, way):
    assert_same(run[way], run["then"])


class Damaged:
    """Images of which the last one cannot be read."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index == len(self) - 1:
            raise DataError("the data set in 'folder' is damaged (for a test)")
        return self.source[index]


def test_a_damaged_image_is_reported_through_workers():
    damaged = dataclasses.replace(IMAGES, test=Damaged(numbered(11)))
    evaluation = image_evaluation_batches(damaged, "test", batch_size=4, workers=2)
    with contextlib.closing(evaluation) as batches:
        intact = take(batches, 2)
        with pytest.raises(DataError, match=r"^the data set in 'folder' is damaged \(for a test\)"):
            next(batches)
    assert_same(intact, take(image_evaluation_batches(IMAGES, "test", batch_size=4), 2))


@contextlib.contextmanager
def script(tmp_path, ending):
    """Runs SCRIPT in a session of its own, of which nothing is left afterwards."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    helpers = str(pathlib.Path(__file__).parents[1])
    paths = os.pathsep.join([helpers, *sys.path])
    process = subprocess.Popen(
        [sys.executable, file, ending],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What SCRIPT says after its worker was killed, and whether workers outlive its own end."""
    with script(tmp_path_factory.mktemp("killed"), "killed") as process:
        said = list(iter(process.stdout.readline, "ready\n"))
        process.kill()
        try:
            # The pipe ends when the last process that inherited it has ended.
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            return said, True
        return said, False


def test_a_killed_worker_is_a_clear_error(killed):
    (sentence, *_), _ = killed
    assert sentence.strip() == (
        "a worker process that prepares batches was killed (signal 9; 9 often means that memory "
        "ran out): resume from the last checkpoint; if it happens again, make room in memory or "
        "begin a run with fewer --workers"
    )


def test_a_killed_worker_is_reported_within_seconds(killed):
    (_, seconds, _), _ = killed
    assert float(seconds) < 30


def test_the_other_workers_end_with_a_killed_one(killed):
    (_, _, others), _ = killed
    assert int(others) == 0


def test_workers_end_with_a_killed_program(killed):
    _, outlived = killed
    assert not outlived


def test_a_program_that_closes_nothing_ends_quietly(tmp_path):
    with script(tmp_path, "ended") as process:
        assert process.communicate(timeout=120) == ("ready\n", "")


class Failing:
    """An iterator of Grain's whose workers have ended."""

    def __init__(self, error):
        self.error, self.closed = error, False

    def __next__(self):
        raise self.error

    def close(self):
        self.closed = True


def ended(code):
    return RuntimeError(f"Worker process was terminated unexpectedly with exit code {code}. See.")


def test_a_worker_that_cannot_start_says_where_to_look():
    sentence = r"ended with exit code 1: what it printed says why; a script .* `if __name__ == "
    with pytest.raises(DataError, match=sentence):
        next(WorkerBatches(Failing(ended(1))))


def test_other_errors_stay_as_they_are():
    error = RuntimeError("of the pipeline itself")
    with pytest.raises(RuntimeError, match="of the pipeline itself") as caught:
        next(WorkerBatches(Failing(error)))
    assert caught.value is error


def test_nothing_follows_the_end_of_a_worker():
    batches = WorkerBatches(inner := Failing(ended(-9)))
    with pytest.raises(DataError, match=r"was killed \(signal 9"):
        next(batches)
    assert inner.closed
    with pytest.raises(DataError, match="are closed, and their workers have ended: make new ones"):
        next(batches)
