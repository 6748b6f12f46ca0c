"""Shared by the training tests: one prepared corpus, and a disk that can be full."""

import contextlib
import dataclasses
import resource

import pytest

from deqjax.training._run import build

_FILE_SIZES = resource.getrlimit(resource.RLIMIT_FSIZE)


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def compiled_once():
    """Within it, runs of one configuration share its mapped steps, which hold no state."""
    known = {}

    def with_known_steps(config, devices=None, *, kept=None):
        run = build(config, devices, kept=kept)
        return dataclasses.replace(run, steps=known.setdefault((config, devices), run.steps))

    @contextlib.contextmanager
    def sharing():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("deqjax.training._launch.build", with_known_steps)
            yield

    return sharing


@pytest.fixture
def file_size_limit():
    """Lets the system refuse files above so many bytes, as a full disk would; None undoes it."""

    def limit(size):
        soft, hard = _FILE_SIZES
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    return limit


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    """Undo a test's limit before pytest tells of the test, maybe in a file."""
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, _FILE_SIZES)
