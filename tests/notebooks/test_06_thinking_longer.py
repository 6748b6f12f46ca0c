from execution import complaints, kinds


def test_runs_without_errors_and_warnings(fresh):
    assert complaints(fresh) == []


def test_shows_the_kinds_of_output_that_are_committed(fresh, committed):
    assert kinds(fresh) == kinds(committed)
