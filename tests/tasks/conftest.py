"""Shared by the tests of tasks: a folder of prepared data sets."""

import pytest


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")
