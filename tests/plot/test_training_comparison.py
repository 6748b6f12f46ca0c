import math

import pytest
from drawn import is_cut_off, legend

from deqjax import plot
from sample_records import make_records

RUNS = {"penalty off": list(make_records()), "penalty on": list(make_records(20))}


def shared_legend(figure):
    assert all(legend(axes) == [] for axes in figure.axes)
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_panel_for_each_metric_and_a_line_for_each_run():
    figure = plot.training_comparison(RUNS, title="penalty")
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "validation loss (bits per byte)",
        "solver steps (mean per sample)",
        "relative residual (mean)",
        "spectral radius (mean)",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"training step"}
    assert shared_legend(figure) == ["penalty off", "penalty on", "contraction below 1"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log", "linear"]
    assert not is_cut_off(figure)


def test_lines_are_the_validation_records():
    line = plot.training_comparison(RUNS, metrics=["spectral_radius"]).axes[0].lines[0]
    expected = [r["step"] for r in RUNS["penalty off"] if r["split"] == "validation"]
    assert line.get_xdata().tolist() == expected
    assert set(line.get_ydata()) == {0.7}


def test_a_run_without_the_metric_has_no_line_but_its_style():
    explicit = [{"step": 1, "split": "validation", "bits_per_byte": 3.0}]
    runs = {"explicit": explicit, **RUNS}
    figure = plot.training_comparison(runs, metrics=["loss", "spectral_radius"])
    loss, radius = figure.axes
    assert shared_legend(figure) == [*runs, "contraction below 1"]
    assert [line.get_color() for line in radius.lines[:2]] == [
        line.get_color() for line in loss.lines[1:]
    ]


def test_labels_of_a_task_that_nobody_knows():
    records = [{"step": 1, "split": "validation", "loss": 3.0, "my_score": 0.5, "top1": 0.25}]
    figure = plot.training_comparison({"run": records}, metrics=["loss", "my_score", "top1"])
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["validation loss", "my score", "accuracy"]


def test_values_that_are_not_finite_are_left_out():
    records = [
        {"step": step, "split": "validation", "loss": value}
        for step, value in enumerate([1.0, math.nan, 2.0])
    ]
    line = plot.training_comparison({"run": records}, metrics=["loss"]).axes[0].lines[0]
    assert line.get_xdata().tolist() == [0, 2]


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="at least one run and one metric"):
        plot.training_comparison({})


@pytest.mark.parametrize("count", [3, 12])
def test_long_names_of_many_runs_are_not_cut_off(count):
    records = [{"step": s, "split": "validation", "spectral_radius": 0.5} for s in (1, 2)]
    runs = {
        f"penalty.weight=0.3,optimizer.learning_rate=0.001,seed={n}": records for n in range(count)
    }
    figure = plot.training_comparison(runs, metrics=["spectral_radius"])
    figure.draw_without_rendering()
    [legend] = figure.legends
    shown = legend.get_window_extent()
    assert shown.x0 >= 0
    assert shown.x1 <= figure.bbox.x1
    assert shown.y0 >= 0
    panel = figure.axes[0].get_window_extent()
    assert panel.height > 250  # pixels, however long the legend is
