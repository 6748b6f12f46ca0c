import platform
from pathlib import Path

import pytest

from deqjax.data.text import _stdlib_corpus
from deqjax.data.text._stdlib_corpus import StdlibCorpus, corpus_files, split_of, standard_library


def test_the_corpus_has_only_readable_sources_outside_of_test_folders(library):
    assert corpus_files(_stdlib_corpus.standard_library()) == sorted(library)


def test_a_folder_without_sources_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no Python source under .* on disk as \.py files"):
        corpus_files(tmp_path)


def test_the_split_of_a_file_never_changes():
    # Values of the first run: a change would move training files into the test split.
    assert [split_of(path) for path in ("abc.py", "doctest.py", "random.py")] == [
        "train",
        "validation",
        "train",
    ]


def test_splits_hold_about_ninety_five_and_five_percent():
    paths = [f"folder/module{i}.py" for i in range(4000)]
    shares = [
        sum(split_of(path) == split for path in paths) / len(paths)
        for split in ("train", "validation", "test")
    ]
    assert shares == pytest.approx([0.90, 0.05, 0.05], abs=0.015)


def test_the_configuration_names_the_python_version(tmp_path):
    builder = StdlibCorpus(data_dir=tmp_path)
    assert builder.info.full_name == f"stdlib_corpus/python_{platform.python_version()}/1.0.0"


def test_the_running_python_has_its_library_on_disk():
    assert Path(standard_library(), "os.py").is_file()
