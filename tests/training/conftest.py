"""Shared by the training tests: one prepared corpus."""

import pytest


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")
