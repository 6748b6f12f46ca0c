"""Runs side by side: the table says what differs and what came of it, the picture shows it."""

import re

import pytest
from PIL import Image
from rich.console import Console

from deqjax import cli
from deqjax.training import MetricsError, WorkdirError, compare_runs
from run_folders import CONFIG, leave_run, training, validation


@pytest.fixture
def folder(tmp_path):
    """Three runs: one that overfitted, one under way, one without any record."""
    solved = {"forward_steps": 7.25, "forward_residual": 2e-3, "spectral_radius": 0.5}
    records = [training(100), validation(200, 1.5), training(400), validation(400, 1.75, **solved)]
    leave_run(tmp_path / "first", *records)
    slow = training(200, steps_per_second=0.5)
    under_way = [slow, validation(200, 1.25, forward_steps=9.0)]
    leave_run(tmp_path / "second", *under_way, penalty={"weight": 0.3, "probability": 0.5})
    leave_run(tmp_path / "third", seed=7)
    return tmp_path


def table(printed):
    """Rows of a printed table by the run that they are about."""
    rows = [line.strip("│").split("│") for line in printed.splitlines() if line.startswith("│")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


def test_table_tells_what_differs_and_what_came_of_it(folder):
    found = compare_runs(folder)
    assert found.options == {"penalty.weight": (0.0, 0.3, 0.0), "seed": (0, 0, 7)}
    assert table(repr(found)) == {
        "first": ["0.0", "0", "400", "1.7500", "1.5000", "7.25", "2.0e-03", "0.500", "250 ms"],
        "second": ["0.3", "0", "200 of 400", "1.2500", "1.2500", "9", "", "", "2 s"],
        "third": ["0.0", "7", "0 of 400", "", "", "", "", "", ""],
    }


def test_every_score_of_a_task_has_a_column_and_bits_are_the_loss(tmp_path):
    bits = {"bits_per_byte": 2.0, "bigram_loss": 3.0, "bigram_bits_per_byte": 4.0}
    leave_run(tmp_path / "one", validation(400, 1.5, **bits, **{"f1/cat": 0.1}, f1=0.75))
    leave_run(tmp_path / "two", validation(400, 1.25, **bits, f1=0.5))
    found = table(repr(compare_runs(tmp_path)))
    assert found == {
        "one": ["400", "2.0000", "2.0000", "4.0000", "0.75"],
        "two": ["400", "2.0000", "2.0000", "4.0000", "0.5"],
    }
    titles = repr(compare_runs(tmp_path)).split("┡")[0]
    assert "bits per" in titles
    assert "f1" in titles


def test_folders_are_named_one_by_one_or_together(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "compilation-cache").mkdir()
    (folder / "notes.txt").write_text("")
    together = compare_runs(*sorted(folder.iterdir()))
    assert [run.name for run in together.runs] == ["first", "second", "third"]
    [alone] = compare_runs(folder / "second").runs
    assert alone.name == "second"
    mixed = compare_runs(folder.name, f"{folder.name}/first")
    assert len(mixed.runs) == 3


def test_losses_of_different_units_have_them_beside(folder):
    leave_run(folder / "bytes", validation(9, 1.0, bits_per_byte=1.5), name="other")
    printed = table(repr(compare_runs(folder)))
    assert printed["bytes"].count("1.5000 bits per byte") == 2
    assert printed["first"].count("1.7500") == 1


def test_more_differences_than_there_is_room_for_are_named(tmp_path, capsys):
    many = {f"option{number}": number for number in range(9)}
    leave_run(tmp_path / "one", **many)
    leave_run(tmp_path / "two", **dict.fromkeys(many, 100))
    assert cli.main(["compare", str(tmp_path), "--picture", str(tmp_path / "p.png")]) == 0
    assert "3 more options differ: option6, option7, option8" in capsys.readouterr().out


@pytest.mark.parametrize("width", [30, 50, 90, 200])
def test_table_fits_a_terminal_and_loses_no_run(folder, width, capsys):
    console = Console(width=width, force_terminal=True, no_color=True, _environ={})
    compare_runs(folder).print(console)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= width
    for text in ("first", "second", "third", "1.7500", "250 ms"):
        assert text in printed


def test_a_notebook_shows_the_table(tmp_path):
    leave_run(tmp_path / "a<b>", validation(400, 1.5))
    assert "a&lt;b&gt;" in compare_runs(tmp_path)._repr_html_()


def test_command_draws_the_picture_and_prints_the_table(folder, capsys):
    assert cli.main(["compare", *map(str, sorted(folder.iterdir()))]) == 0
    printed = capsys.readouterr().out
    assert "second" in table(printed)
    file = folder / "comparison.png"
    assert printed.splitlines()[-1].endswith("/comparison.png")
    with Image.open(file) as picture:
        assert picture.width > 500


def test_names_are_no_markup(tmp_path, capsys):
    leave_run(tmp_path / "[red]one", validation(400, 1.5))
    assert cli.main(["compare", str(tmp_path)]) == 0
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("[red]one") == 2


@pytest.mark.parametrize(
    ("given", "sentence"), [("none", "there is no folder"), (".", "there is no run to compare in")]
)
def test_nothing_to_compare_is_said(given, sentence, tmp_path):
    with pytest.raises(WorkdirError, match=sentence):
        compare_runs(tmp_path / given)


def test_records_that_cannot_be_read_are_said(folder):
    (folder / "first" / "metrics.jsonl").unlink()
    (folder / "first" / "metrics.jsonl").mkdir()
    with pytest.raises(MetricsError, match="cannot be read"):
        compare_runs(folder)


def test_picture_that_cannot_be_written_is_said_after_the_table(folder, capsys):
    file = folder / "comparison.png"
    file.mkdir()
    assert cli.main(["compare", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "second" in table(shown.out)
    assert "cannot be written (Is a directory)" in shown.err


def test_configuration_is_as_it_is_stored(folder):
    assert compare_runs(folder / "first").runs[0].config == CONFIG
