"""Every shell command of the README and of the documentation works."""

import re
import sys

import jax
import pytest
from command_line import CommandLine, WrongCommandError
from doc_pages import ROOT, commands, inline_commands, name_of, pages

PAGES = [page for page in pages() if commands(page)]


@pytest.fixture(scope="module")
def command_line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TFDS_DATA_DIR", str(folder / "datasets"))
        for part in ("tests/convert", "experiments", "experiments/benchmarks"):
            patch.syspath_prepend(str(ROOT / part))
        jax.config.update("jax_disable_most_optimizations", True)
        yield CommandLine(folder)
        jax.config.update("jax_disable_most_optimizations", False)
    sys.modules.pop("side_by_side", None)  # each test of it imports it anew


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_run_one_after_the_other(page, command_line):
    command_line.write(page)
    for line in commands(page):
        command_line.run(line)


@pytest.mark.parametrize("page", [p for p in pages() if inline_commands(p)], ids=name_of)
def test_commands_in_sentences_make_sense(page, command_line):
    for line in inline_commands(page):
        command_line.parse(line)


@pytest.mark.parametrize(
    ("line", "objection"),
    [
        ("deqjex train x.py", "no test knows"),
        ("pip install '.[nonsense]'", "pip cannot install"),
        ("pip install 'deqjax[docs]'", "pip cannot install"),
        ("jupyter notebook notebooks", "does not install this"),
        ("pip install numpy-of-somebody", "pip cannot install"),
        ("python experiments/none.py", "there is no"),
        ("python experiments/golden.py", "does not take"),
        ("python experiments/compare_penalty.py --sleeps 3", "does not take"),
        ("pytest tests/none", "there are no tests"),
        ("deqjax evaluate runs/none", "no experiment leaves"),
        ("deqjax train experiments/vision/digits.py --stepz 3 --help", "there is no option"),
        ("bash .ci/walk", "there is no"),
    ],
)
def test_a_wrong_command_is_caught(line, objection, command_line):
    with pytest.raises(WrongCommandError, match=re.escape(objection)):
        command_line.run(line)
