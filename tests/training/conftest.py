"""Shared by the training tests: one prepared corpus, and a disk that can be full."""

import resource

import pytest


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture
def file_size_limit():
    """Lets the system refuse files above so many bytes, as a full disk would; None undoes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)
