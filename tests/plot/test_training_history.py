import io
import math
import sys

import numpy as np

from deqjax.plot import training_history
from sample_records import make_records

LABELS = [
    "loss (bits per byte)",
    "solver steps (mean per sample)",
    "relative residual (mean)",
    "spectral radius of the Jacobian",
]


def legends(figure):
    return [
        [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []
        for axes in figure.axes
    ]


def empty_panels(figure):
    return [
        axes.get_ylabel()
        for axes in figure.axes
        if "no data" in [text.get_text() for text in axes.texts]
    ]


def rendered(figure):
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def test_four_panels_with_labels():
    figure = training_history(list(make_records()), title="tiny")
    assert figure.get_suptitle() == "tiny"
    assert [axes.get_ylabel() for axes in figure.axes] == LABELS
    assert {axes.get_xlabel() for axes in figure.axes} == {"training step"}


def test_every_metric_has_its_line():
    assert legends(training_history(list(make_records()), title="tiny")) == [
        ["training", "validation", "bigram"],
        ["forward", "backward", "forward, validation"],
        ["forward", "backward", "forward, validation", "tolerance"],
        ["largest sample", "mean", "contraction below 1"],
    ]


def test_residual_is_logarithmic():
    figure = training_history(list(make_records()), title="tiny")
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log", "linear"]


def test_explicit_model_has_no_solves():
    records = [{"step": 1, "split": "train", "bits_per_byte": 5.0}]
    figure = training_history(records, title="explicit")
    assert empty_panels(figure) == LABELS[1:]
    assert rendered(figure)


def test_no_records():
    figure = training_history([], title="nothing yet")
    assert empty_panels(figure) == ["loss", *LABELS[1:]]
    assert rendered(figure)


def test_values_that_cannot_be_drawn_are_left_out():
    values = [math.nan, math.inf, 0.0, 0.5]
    records = [
        {"step": step, "split": "train", "bits_per_byte": value, "forward_residual": value}
        for step, value in enumerate(values)
    ]
    figure = training_history(records, title="diverged")
    raw = [axes.lines[0].get_xdata().tolist() for axes in (figure.axes[0], figure.axes[2])]
    assert raw == [[2, 3], [3]]
    assert rendered(figure)


def test_moving_mean_keeps_a_constant():
    records = [{"step": s, "split": "train", "bits_per_byte": 2.0} for s in range(300)]
    _, mean = training_history(records, title="flat").axes[0].lines
    np.testing.assert_allclose(mean.get_ydata(), 2.0)


def test_moving_mean_is_smoother_than_the_values():
    raw, mean = training_history(list(make_records(400)), title="noisy").axes[1].lines[:2]
    assert np.std(mean.get_ydata()) < 0.6 * np.std(raw.get_ydata())


def test_nothing_is_cut_off():
    figure = training_history(list(make_records()), title="a title of many words " * 10)
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= 12
    assert box.y1 <= 7.5


def test_no_global_state(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    rendered(training_history(list(make_records()), title="tiny"))
    assert "matplotlib.pyplot" not in sys.modules


def test_a_loss_has_no_unit_and_what_stands_beside_it_is_a_line():
    records = [
        {"step": step, "split": "validation", "loss": 1 / step, "nearest_neighbor_loss": 0.5}
        for step in range(1, 9)
    ]
    figure = training_history(records, title="run")
    assert figure.axes[0].get_ylabel() == "loss"
    assert legends(figure)[0] == ["validation", "nearest neighbor"]


def with_trouble():
    records = list(make_records())
    train = [record for record in records if record["split"] == "train"]
    train[4] |= {"skipped": 2.0}
    train[9] |= {"bits_per_byte": math.nan}
    train[14] |= {"backward_diverged": 0.031}
    train[15] |= {"backward_diverged": 0.01, "skipped": 0.0}
    events = ["rolled back to step 10", "resumed after step 20", "rolled back to step 10"]
    happened = [
        {"step": step, "split": "event", "event": text}
        for step, text in zip((12, 20, 30), events, strict=True)
    ]
    return [*records, *happened, {"step": 20, "split": "checkpoint", "state_hash": "ab"}]


def marked(axes, label):
    [line] = [line for line in axes.lines if line.get_label() == label]
    return list(line.get_xdata())


def test_trouble_is_marked():
    figure = training_history(with_trouble(), title="trouble")
    loss, _, residual, _ = figure.axes
    assert marked(loss, "skipped or not finite") == [5, 10]
    assert marked(residual, "backward diverged,\nat most 3.1%") == [15, 16]
    assert rendered(figure)


def test_every_rollback_has_its_line_and_one_entry_in_the_legend():
    loss, *others = training_history(with_trouble(), title="trouble").axes
    lines = [line for line in loss.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in lines] == [12, 30]
    assert legends(loss.figure)[0].count("rollback") == 1
    assert not [line for axes in others for line in axes.lines if line.get_linestyle() == ":"]


def test_marks_stand_clear_of_the_curves():
    figure = training_history(with_trouble(), title="trouble")
    figure.canvas.draw()
    [marks] = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    _, height = (
        figure.axes[0]
        .transAxes.inverted()
        .transform(marks.get_transform().transform((5, marks.get_ydata()[0])))
    )
    assert 1 < height < 1.1


def test_run_without_trouble_has_no_marks():
    records = [record | {"skipped": 0.0, "backward_diverged": 0.0} for record in make_records()]
    assert legends(training_history(records, title="fine")) == legends(
        training_history(list(make_records()), title="fine")
    )


def test_residuals_of_zero_have_no_logarithm():
    records = [
        {"step": step, "split": "train", "forward_residual": 0.0, "tolerance": 0.0}
        for step in range(3)
    ]
    assert rendered(training_history(records))
