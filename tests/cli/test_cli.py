import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deqjax import cli
from deqjax._extras import MissingExtraError
from tiny import TINY_OPTIONS

EXPERIMENT = str(Path(__file__).parents[2] / "experiments" / "stdlib_lm.py")


def command(*arguments):
    return [sys.executable, "-m", "deqjax", *map(str, arguments)]


def error_of(capsys, *arguments, status):
    assert cli.main([str(a) for a in arguments]) == status
    printed = capsys.readouterr()
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("deqjax: error: ")
    assert "goes on" not in printed.out  # what is refused was not announced before
    return line


@pytest.fixture(scope="module")
def data_options(tmp_path_factory):
    return ["--task.text.directory", str(tmp_path_factory.mktemp("datasets"))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_options):
    """A run of three steps on two virtual devices, started as a user would."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    options = [*TINY_OPTIONS, *data_options, "--steps", "3", "--devices", "2"]
    done = subprocess.run(
        command("train", EXPERIMENT, "--workdir", workdir, *options),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_what_a_command_lacks_is_one_sentence(monkeypatch, capsys):
    def lacking(given):
        raise MissingExtraError("a text needs this, which is not installed.")

    monkeypatch.setattr("deqjax.cli._main.parse", lacking)
    line = error_of(capsys, "train", EXPERIMENT, status=1)
    assert line == "deqjax: error: a text needs this, which is not installed."


def test_training_says_what_it_did(trained):
    workdir, printed = trained
    assert "2 cpu device(s)" in printed
    assert "bits per byte of a bigram model" in printed
    assert "spectral radius, mean" in printed
    assert "residual, mean" in printed
    assert (workdir / "run.png").exists()
    assert "\x1b" not in printed  # no control characters where there is no terminal


def test_evaluate_prints_the_same_scores(trained, capsys):
    workdir, printed = trained
    assert cli.main(["evaluate", str(workdir)]) == 0
    row = re.compile(r"bits per byte +\S +([\d.]+)")
    again, first = (float(row.search(t)[1]) for t in (capsys.readouterr().out, printed))
    # other device counts sum in another order
    assert again == pytest.approx(first, abs=2e-4)


def test_generate_continues_the_prompt(trained, capsys):
    workdir, _ = trained
    arguments = ["generate", str(workdir), "import ", "--count", "5"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("import ")
    assert len(text) > len("import \n")


def test_generate_compares_with_solves_from_zero(trained, capsys):
    workdir, _ = trained
    arguments = ["generate", str(workdir), "import ", "--count", "5"]
    assert cli.main([*arguments, "--compare-warm-start", "--compare-cache"]) == 0
    line = capsys.readouterr().err
    assert re.search(r"tokens a second: [\d.]+, [\d.]+ without the cache", line)
    found = re.search(r"solver steps a token: ([\d.]+) with the warm start, ([\d.]+) without", line)
    assert found, line
    assert all(0 < float(steps) <= 12 for steps in found.groups())


def test_generate_with_nothing_to_compare_says_so(tmp_path, capsys, data_options):
    options = [
        *TINY_OPTIONS,
        *data_options,
        "--steps",
        "1",
        "--task.network.kind",
        "transformer_xl",
    ]
    workdir = str(tmp_path / "run")
    assert cli.main(["train", EXPERIMENT, "--workdir", workdir, *options]) == 0
    capsys.readouterr()
    arguments = ["generate", workdir, "import ", "--count", "2"]
    assert cli.main([*arguments, "--compare-warm-start"]) == 0
    assert "no warm start to compare" in capsys.readouterr().err


def test_used_workdir_is_refused(trained, capsys, data_options):
    workdir, _ = trained
    line = error_of(
        capsys, "train", EXPERIMENT, "--workdir", workdir, *TINY_OPTIONS, *data_options, status=1
    )
    assert "--resume" in line


def test_another_experiments_workdir_is_refused(trained, capsys, data_options):
    workdir, _ = trained
    line = error_of(
        capsys,
        "train",
        EXPERIMENT,
        "--workdir",
        workdir,
        "--resume",
        "--name",
        "other",
        *TINY_OPTIONS,
        *data_options,
        status=1,
    )
    assert "stdlib_lm" in line
    assert "other" in line


def test_changed_field_is_named_on_resume(trained, capsys, data_options):
    workdir, _ = trained
    line = error_of(
        capsys,
        "train",
        EXPERIMENT,
        "--workdir",
        workdir,
        "--resume",
        *TINY_OPTIONS,
        *data_options,
        "--steps",
        "5",
        "--optimizer.beta2",
        "0.5",
        status=1,
    )
    assert "optimizer.beta2: 0.999 -> 0.5" in line


def test_a_restart_compiles_nothing_anew(tmp_path):
    experiment = tmp_path / "experiment.py"
    experiment.write_text(
        "import tiny_vision\ndef config(): return tiny_vision.tiny_vision('resnet', steps=2)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {name: os.environ[name] for name in os.environ if "CACHE" not in name}
    compiled = []
    for name in ("first", "second"):
        subprocess.run(
            command("train", experiment, "--workdir", tmp_path / "runs" / name),
            env=environment | {"PYTHONPATH": paths},
            capture_output=True,
            check=True,
        )
        programs = (tmp_path / "runs" / "compilation-cache").iterdir()
        compiled.append({path.name for path in programs if path.name.endswith("-cache")})
    assert len(compiled[0]) > 5
    assert compiled[1] == compiled[0]


def test_processes_need_a_folder_that_all_name(capsys):
    arguments = ["train", EXPERIMENT, "--coordinator", "127.0.0.1:1"]
    line = error_of(capsys, *arguments, status=2)
    assert "--coordinator needs --workdir, the same folder for all processes" in line


def test_missing_experiment_is_named(capsys):
    assert "no/such.py" in error_of(capsys, "train", "no/such.py", status=1)


def test_unknown_field_names_the_nearest(capsys):
    line = error_of(capsys, "train", EXPERIMENT, "--task.network.shape.widht", "8", status=2)
    assert "--task.network.shape.widht" in line
    assert "did you mean --task.network.shape.width?" in line


def test_train_without_file(capsys):
    assert "deqjax train FILE" in error_of(capsys, "train", "--steps", "3", status=2)


def test_bad_value_is_named(capsys):
    assert "--steps must be at least 1" in error_of(
        capsys, "train", EXPERIMENT, "--steps", "0", status=1
    )


def test_unwritable_workdir_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / "run"
    line = error_of(capsys, "train", EXPERIMENT, "--workdir", workdir, status=1)
    assert str(workdir) in line
    assert "--workdir" in line


def test_evaluating_nothing_says_so(capsys, tmp_path):
    assert "no run" in error_of(capsys, "evaluate", tmp_path, status=1)


def test_empty_prompt_is_refused(trained, capsys):
    workdir, _ = trained
    assert "prompt is empty" in error_of(capsys, "generate", workdir, "", status=1)


def test_help_lists_every_field(capsys):
    assert cli.main(["train", EXPERIMENT, "--help"]) == 0
    printed = capsys.readouterr().out
    for option in (
        "--workdir",
        "--resume",
        "--devices",
        "--penalty.weight",
        "--batch-size",
        "--task.text.corpus",
    ):
        assert option in printed


def test_ctrl_c_leaves_a_checkpoint_that_resume_continues(tmp_path, data_options):
    workdir = tmp_path / "run"
    endless = command(
        "train",
        EXPERIMENT,
        "--workdir",
        workdir,
        *TINY_OPTIONS,
        *data_options,
        "--steps",
        "100000",
        "--checkpoint-every",
        "100000",
    )
    pipe = subprocess.PIPE
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored by a shell's background job
    process = subprocess.Popen(endless, stdout=pipe, stderr=pipe, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        try:
            records = workdir / "metrics.jsonl"
            deadline = time.monotonic() + 120
            while not (records.exists() and records.stat().st_size):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    stopped = int(re.search(r"stopped at step (\d+)", printed)[1])
    assert os.listdir(workdir / "checkpoints") == [str(stopped)]

    resumed = subprocess.run(
        command(
            "train",
            EXPERIMENT,
            "--workdir",
            workdir,
            "--resume",
            *TINY_OPTIONS,
            *data_options,
            "--steps",
            stopped + 2,
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming after step {stopped}" in resumed.stdout
    last = json.loads(records.read_text().splitlines()[-1])
    assert last["step"] == stopped + 2


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--task.network.solver.damping", "nan"], 1, "--task.network.solver.damping must be a"),
        (["--task.network.solver.dampin", "1"], 2, "did you mean --task.network.solver.damping?"),
        (["--task.netwrk.kind", "x"], 2, "did you mean --task.network.kind?"),
    ],
)
def test_nested_options_are_named_whole(capsys, words, status, said):
    assert said in error_of(capsys, "train", EXPERIMENT, *words, status=status)


def test_a_wrong_choice_is_named_with_its_option(capsys):
    assert cli.main(["train", EXPERIMENT, "--task.network.kind", "x"]) == 2
    printed = capsys.readouterr()
    assert "--task.network.kind" in printed.err + printed.out
