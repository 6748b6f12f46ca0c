import pytest


@pytest.fixture(scope="session")
def prepared_in(tmp_path_factory):
    """A folder of prepared puzzles that tests share."""
    return tmp_path_factory.mktemp("puzzles")
