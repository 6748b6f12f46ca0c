import json
import math
import re

import pytest
from rich.console import Console

from deqjax import cli
from deqjax.plot import new_figure
from deqjax.training._workdir import Workdir, write_config
from deqjax.training.records._metrics import MetricsWriter
from deqjax.training.report._picture import as_it_is
from deqjax.training.report._report import build_report, inspect_run
from deqjax.training.report._text import as_json, print_report

STEPS = 400
CONFIG = {
    "name": "tiny",
    "steps": STEPS,
    "pretrain_steps": 0,
    "step_limit": {"distribution": "fixed", "least": 1, "mean": 8.0},
    "checkpoint_every": 100,
    "optimizer": {"learning_rate": 0.003, "warmup_steps": 40, "clip_norm": 1.0},
    "penalty": {"weight": 0.3},
    "threads": 0,
    "task": {
        "network": {
            "kind": "resdeq",
            "solver": {
                "method": "anderson",
                "adjoint": "implicit",
                "tol": 1e-3,
                "max_steps": 12,
                "ridge": 1e-5,
                "backward_max_steps": 12,
                "backward_tol": 1e-3,
            },
        },
    },
}
TRAIN = {
    "loss": 1.0,
    "forward_steps": 8.0,
    "forward_residual": 8e-4,
    "forward_converged": 0.99,
    "forward_diverged": 0.0,
    "backward_steps": 7.0,
    "backward_residual": 9e-4,
    "backward_converged": 0.98,
    "backward_diverged": 0.0,
    "skipped": 0.0,
    "images_per_second": 100.0,
    "data_wait": 0.01,
    "host_memory_gib": 2.0,
}
VALIDATION = {
    "loss": 1.1,
    "forward_converged": 0.95,
    "forward_residual": 9e-4,
    "spectral_radius": 0.7,
    "spectral_radius_max": 1.2,
}
EXPLICIT = {"loss": 1.0, "images_per_second": 100.0}


def changed(**solver):
    return CONFIG | {"task": {"network": {"solver": CONFIG["task"]["network"]["solver"] | solver}}}


def train(late=None, steps=STEPS, **values):
    """A record every ten steps; `late` replaces values in the second half."""
    return [
        {"step": step, "split": "train"}
        | TRAIN
        | values
        | ((late or {}) if step > steps / 2 else {})
        for step in range(10, steps + 1, 10)
    ]


def validation(*losses, **values):
    return [
        {"step": 100 * number, "split": "validation"} | VALIDATION | values | {"loss": loss}
        for number, loss in enumerate(losses, start=1)
    ]


def names(records, config=CONFIG, checkpoints=(300, 400)):
    return [finding.name for finding in build_report(records, config, checkpoints).findings]


def test_sound_run():
    report = build_report([*train(), *validation(1.3, 1.2, 1.1)], CONFIG, [300, 400])
    assert report.findings == ()
    assert report.verdict == "Nothing is wrong."


TROUBLE = {
    "loss-not-finite": train(late={"loss": math.nan}),
    "updates-skipped": train(late={"skipped": 1.0}),
    "rolled-back": [
        *train(),
        {"step": 400, "split": "event", "event": "rolled back to step 300"},
    ],
    "forward-diverges": train(late={"forward_diverged": 0.002}),
    "backward-diverges": train(late={"backward_diverged": 0.002}),
    "step-limit": train(late={"forward_converged": 0.6}),
    "backward-step-limit": train(late={"backward_converged": 0.6}),
    "residual-grows": train(late={"forward_residual": 2e-3}),
    "forward-steps-grow": train(late={"forward_steps": 11.0}),
    "backward-steps-grow": train(late={"backward_steps": 10.0}),
    "no-contraction": [*train(), *validation(1.1, spectral_radius=1.05)],
    "training-rises": train(late={"loss": 1.2}),
    "validation-rises": [*train(), *validation(1.1, 1.0, 1.2)],
    "waits-for-data": train(late={"data_wait": 0.2}),
    "slower": train(late={"images_per_second": 50.0}),
    "memory-grows": train(late={"host_memory_gib": 3.0}),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_found_and_nothing_else(name):
    assert names(TROUBLE[name]) == [name]


def test_a_training_loss_that_rises_is_no_better_fit():
    records = [*train(late={"loss": 1.2}), *validation(1.1, 1.0, 1.2)]
    assert names(records) == ["training-rises"]


HARMLESS = {
    "residual that grows below the tolerance": train(
        forward_residual=3e-4, late={"forward_residual": 9e-4}
    ),
    "one step that went astray": [
        record | ({"forward_steps": 12.0, "forward_residual": 0.5} if record["step"] == 390 else {})
        for record in train()
    ],
    "caches that fill": train(late={"host_memory_gib": 2.45}),
    "another job for a while": train(late={"images_per_second": 75.0}),
    "loss of other batches": train(late={"loss": 1.05}),
    "validation on other batches": [*train(), *validation(1.1, 1.0, 1.04)],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_no_finding(name):
    assert names(HARMLESS[name], checkpoints=None) == []


def test_a_loop_of_so_many_steps_is_no_finding():
    solver = CONFIG["task"]["network"]["solver"] | {"tol": 0.0, "adjoint": "truncated"}
    config = CONFIG | {"task": {"network": {"solver": solver}}}
    assert not build_report(TROUBLE["step-limit"], config).findings
    assert build_report(TROUBLE["step-limit"], CONFIG).findings


def test_gravest_comes_first():
    records = train(late={"loss": math.nan, "data_wait": 0.5, "backward_diverged": 0.5})
    assert names(records) == ["loss-not-finite", "backward-diverges", "waits-for-data"]


def test_remedy_names_the_option_and_its_value():
    [finding] = build_report(TROUBLE["step-limit"], CONFIG).findings
    assert "--task.network.solver.max-steps (now 12)" in finding.remedy
    assert "39%" not in finding.found
    assert "40% of the forward solves stop at the step limit" in finding.found


def test_remedy_of_a_users_task_names_the_options_that_it_has():
    config = CONFIG | {"task": {"width": 3, "deq": {"max_steps": 7, "tol": 0.02}}}
    records = train(late={"forward_converged": 0.6, "backward_diverged": 0.01})
    diverging, stopping = build_report(records, config).findings
    assert "where 0.02 is asked for" in stopping.found
    assert "raise --task.deq.max-steps (now 7)" in stopping.remedy
    assert stopping.remedy.endswith("make --task.deq.tol (now 0.02) coarser")
    assert diverging.remedy.endswith("set the solver of the layer's adjoint to gmres")


SETTINGS = CONFIG["task"]["network"]["solver"]


@pytest.mark.parametrize(
    "task", [{}, {"width": 3}, {"max_steps": 9}, {"first": SETTINGS, "second": SETTINGS}]
)
def test_remedy_of_a_task_without_options_speaks_of_its_layer(task):
    records = [*TROUBLE["step-limit"], *validation(1.1, tolerance=0.02)]
    [finding] = build_report(records, CONFIG | {"task": task}).findings
    assert finding.found.endswith("at a residual of 8.0e-04 where 0.02 is asked for")
    assert finding.remedy.startswith("raise the layer's max_steps or --penalty.weight (now 0.3)")
    assert "--task" not in finding.remedy


def test_a_tolerance_that_nothing_tells_is_not_told():
    [finding] = build_report(TROUBLE["step-limit"], CONFIG | {"task": {}}).findings
    assert finding.found.endswith("at a residual of 8.0e-04")


def test_backward_solves_are_judged_though_nothing_tells_the_adjoint():
    [finding] = build_report(TROUBLE["backward-step-limit"], CONFIG | {"task": {}}).findings
    assert finding.name == "backward-step-limit"
    assert "raise the max_steps of the layer's adjoint" in finding.remedy


def test_every_score_of_a_task_has_its_line():
    records = [*train(), *validation(1.2, f1=0.5, my_score=0.25, **{"iou/road": 0.5})]
    text = printed(build_report(records, CONFIG))
    assert re.search(r"\bf1 .* 0\.5 ", text)
    assert re.search(r"\bmy score .* 0\.25 ", text)
    assert "road" not in text


def test_throughput_is_whatever_a_task_counts():
    records = [
        {
            "step": r["step"],
            "split": "train",
            "graphs_per_second": 100.0 if r["step"] < 200 else 9.0,
        }
        for r in train()
    ]
    report = build_report(records, CONFIG)
    [finding] = report.findings
    assert (finding.name, "in graphs per second" in finding.found) == ("slower", True)
    assert "graphs per second" in printed(report)


def test_a_loss_without_a_unit_is_told_without_one():
    records = [{"step": 100, "split": "validation", "loss": 1.25}]
    assert "best validation loss: 1.2500, after step 100" in printed(build_report(records, CONFIG))


def test_nan_of_a_skipped_update_is_told_as_such_alone():
    records = train()
    records[20] |= {"loss": math.nan, "skipped": 1.0}
    [finding] = build_report(records, CONFIG).findings
    assert finding.found == "1 update(s) were skipped, 0.25% of the steps"


def test_reversible_backward_pass_that_lost_its_way():
    records = train(late={"backward_converged": 0.5})
    assert names(records, changed(method="reversible", adjoint="reversible")) == ["precision-lost"]


@pytest.mark.parametrize("adjoint", ["neumann", "jacobian_free", "shine"])
def test_adjoint_that_does_not_solve_cannot_stop_early(adjoint):
    assert names(train(late={"backward_converged": 0.0}), changed(adjoint=adjoint)) == []


def test_random_limit_is_judged_on_validation():
    random_limit = CONFIG | {"step_limit": {"distribution": "uniform", "least": 6, "mean": 8.0}}
    early = train(forward_converged=0.3)
    assert names([*early, *validation(1.1)], random_limit) == []
    assert names([*early, *validation(1.1, forward_converged=0.3)], random_limit) == ["step-limit"]


def test_checkpoint_that_is_overdue():
    assert names(train(), checkpoints=[100, 200]) == ["no-checkpoint"]
    assert names(train(), checkpoints=[]) == ["no-checkpoint"]
    assert names(train(), checkpoints=[300]) == []
    assert names(train(), checkpoints=None) == []


def test_explicit_model_solves_nothing():
    records = [{"step": step, "split": "train"} | EXPLICIT for step in range(10, 401, 10)]
    report = build_report(records, CONFIG)
    assert (report.findings, report.figures.solves) == ((), False)
    assert set(report.figures.trends) == {"images_per_second"}


def test_remedies_of_an_explicit_model_name_no_solver():
    record = {"step": 10, "split": "train", "loss": math.nan}
    [finding] = build_report([record], CONFIG).findings
    assert "learning-rate" in finding.remedy
    assert "penalty" not in finding.remedy
    assert "solver" not in finding.remedy


def test_figures():
    records = [
        *train(),
        *validation(1.2, 1.0, 1.01),
        {"step": 400, "split": "checkpoint", "state_hash": "ab"},
        {"step": 90, "split": "event", "event": "resumed"},
    ]
    figures = build_report(records, CONFIG, [400, 300]).figures
    assert (figures.steps, figures.planned, figures.checkpoints) == (400, STEPS, (300, 400))
    assert (figures.best.step, figures.best.value) == (200, 1.0)
    assert (figures.validation.step, figures.validation.values["loss"]) == (300, 1.01)
    assert (figures.largest_radius.step, figures.largest_radius.value) == (100, 1.2)
    assert (figures.state_hash.step, figures.state_hash.state_hash) == (400, "ab")
    assert [(event.step, event.event) for event in figures.events] == [(90, "resumed")]


def test_trend_compares_the_quarters_after_the_warm_up():
    records = [r | {"forward_steps": r["step"] / 10} for r in train()]
    trend = build_report(records, CONFIG).figures.trends["forward_steps"]
    assert (trend.early, trend.late) == (9.0, 36.0)  # of 5..13 and 32..40
    assert trend.growth == 4.0


def test_stage_without_solves_is_warm_up_too():
    late = build_report(train(), CONFIG | {"pretrain_steps": 350}).figures
    assert late.trends == {}


def test_run_that_was_rolled_back_is_where_it_was_rolled_back_to():
    records = [*train(steps=300), {"step": 400, "split": "event", "event": "rolled back"}]
    assert build_report(records, CONFIG).figures.steps == 300


BROKEN = {
    "no record": [],
    "one record": train(steps=10),
    "one record of the first stage": [{"step": 1, "split": "train", "loss": 3.0}],
    "validation alone": validation(1.0),
    "an event alone": [{"step": 0, "split": "event", "event": "a [bold]warning[/nothing]"}],
    "nothing finite": train(**dict.fromkeys(TRAIN, math.nan)),
    "infinite": [*train(**dict.fromkeys(TRAIN, math.inf)), *validation(math.inf)],
    "zeros": train(**dict.fromkeys(TRAIN, 0.0)),
}


@pytest.mark.parametrize("config", [CONFIG, {}], ids=["config", "empty"])
@pytest.mark.parametrize("name", BROKEN)
def test_report_copes(name, config):
    report = build_report(BROKEN[name], config, [])
    assert printed(report)
    json.loads(as_json(report), parse_constant=refuse)


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def printed(report, width=100):
    console = Console(width=width, no_color=True, _environ={})
    with console.capture() as capture:
        print_report(report, console)
    return capture.get()


def test_too_early_to_judge():
    assert build_report([], CONFIG).verdict == "There is nothing to judge yet."
    assert "trends need 8 records" in build_report(train(steps=100), CONFIG).verdict


def test_values_that_are_not_finite_are_strings_in_json():
    found = json.loads(as_json(build_report(train(late={"loss": math.nan}), CONFIG)))
    assert found["figures"]["train"]["values"]["loss"] == "nan"
    assert found["findings"][0]["name"] == "loss-not-finite"
    assert found["figures"]["trends"]["forward_steps"]["growth"] == 1.0


def test_printed_report():
    text = printed(build_report([*validation(1.2, 1.0), *train()], CONFIG, [400]))
    assert "tiny: 400 of 400 (100%) steps done" in text
    assert re.search(r"\bloss +│ +1\.0000 │ +1\.0000", text)
    assert "best validation loss: 1.0000, after step 200" in text
    assert "forward solves in the last quarter of training: 99.0% converged, 0.0% diverged" in text
    assert "checkpoints on disk: 400" in text
    assert text.rstrip().endswith("Nothing is wrong.")


def test_printed_finding():
    text = printed(build_report(TROUBLE["waits-for-data"], CONFIG))
    assert "1. The loop waits for data in 20% of its time.\n   It means: " in text
    assert "   To do: raise --threads (now 0)" in text


def test_newest_events_are_printed_as_they_are():
    texts = [f"event [red]{number}[/red]" for number in range(7)]
    events = [{"step": 1, "split": "event", "event": text} for text in texts]
    text = printed(build_report(events, CONFIG))
    assert [each in text for each in texts] == [False] * 2 + [True] * 5
    assert "events: 7; the last 5:" in text


@pytest.mark.parametrize("width", [20, 60])
def test_narrow_page(width):
    report = build_report([*train(), *validation(1.2)], CONFIG)
    assert max(map(len, printed(report, width).splitlines())) <= width


@pytest.fixture
def run(tmp_path):
    workdir = Workdir(tmp_path)
    write_config(workdir, "tiny", CONFIG, {})
    with MetricsWriter(workdir, None) as writer:
        for record in train():
            writer.write(record["step"], "train", TRAIN)
    for step in ("300", "400", "500.orbax-checkpoint-tmp"):
        (workdir.checkpoints / step).mkdir(parents=True)
    return workdir


def test_run_in_a_folder(run):
    assert inspect_run(run.path).figures.checkpoints == (300, 400)


@pytest.mark.parametrize("value", ["many", [[]], {"a": 1}, None, -1, 1e400, True])
def test_a_stored_number_that_is_none_costs_no_report(value):
    solver = dict.fromkeys(("tol", "backward_tol", "max_steps", "adjoint", "method"), value)
    names = ("name", "steps", "pretrain_steps", "checkpoint_every", "step_limit", "penalty")
    config = {
        **dict.fromkeys(names, value),
        "optimizer": {"warmup_steps": value, "learning_rate": value},
        "task": {"solver": solver},
    }
    bad = {"forward_converged": 0.1, "backward_converged": 0.1, "backward_residual": 1.0}
    for each in (config, {**config, "optimizer": value, "task": value}):
        printed(build_report(train(**bad), each, [100]), 100)


@pytest.mark.parametrize("name", ["$", "$x^$", "[/b]", r"\frac $", "a\udcff"])
def test_a_name_in_a_picture_is_what_it_is(name):
    figure = new_figure(4, 3, as_it_is(name))
    figure.draw_without_rendering()


def test_inspect_draws_and_tells(run, capsys):
    assert cli.main(["inspect", str(run.path)]) == 0
    assert "Nothing is wrong." in capsys.readouterr().out
    assert run.picture.exists()


def test_inspect_prints_nothing_but_json(run, capsys):
    assert cli.main(["inspect", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "Nothing is wrong."
    assert run.picture.exists()


def test_inspect_of_a_run_that_cannot_be_written_to(run, capsys):
    run.picture.mkdir()
    assert cli.main(["inspect", str(run.path)]) == 0
    shown = capsys.readouterr()
    assert "Nothing is wrong." in shown.out
    assert "run.png cannot be written (Is a directory)" in shown.err


def test_inspecting_nothing_says_so(tmp_path, capsys):
    assert cli.main(["inspect", str(tmp_path)]) == 1
    assert "There is no run in" in capsys.readouterr().err
