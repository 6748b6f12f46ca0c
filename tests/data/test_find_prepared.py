import shutil

import pytest

from deqjax.data import DataError
from deqjax.data._find_prepared import Download, open_prepared
from image_samples import imagenet_example, write_prepared

NAME = "imagenet2012"
BY_HAND = Download("Pictures", "https://example.org/page", "3 GB", ("one.tar", "two.tar"))
BY_TFDS = Download("Pictures", "https://example.org/page", "3 GB", ())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    write_prepared(NAME, directory, {"train": [imagenet_example(i) for i in range(12)]})
    return directory


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy to damage: the root and the folder of the data set in it."""
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / NAME / "5.1.0"


def test_a_prepared_data_set_is_found(prepared):
    builder = open_prepared(NAME, BY_HAND, directory=prepared)
    assert (builder.info.full_name, builder.info.splits["train"].num_examples) == (
        "imagenet2012/5.1.0",
        12,
    )


def test_the_newest_version_is_taken(copied):
    root, folder = copied
    shutil.copytree(folder, folder.with_name("5.0.9"))
    shutil.copytree(folder, folder.with_name("incomplete.A7XK_6.0.0"))
    shutil.copytree(folder, folder.with_name("5.10.0"))
    assert open_prepared(NAME, BY_HAND, directory=root).data_dir.endswith("5.10.0")


def test_missing_files_are_named_with_page_folder_and_command(tmp_path):
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    (tmp_path / "downloads" / "manual" / "one.tar").touch()
    manual = str(tmp_path / "downloads" / "manual")
    with pytest.raises(ValueError, match="Pictures is not prepared") as caught:
        open_prepared(NAME, BY_HAND, directory=tmp_path)
    assert str(caught.value) == (
        f"Pictures is not prepared in {str(tmp_path)!r}: download two.tar (3 GB) from "
        f"https://example.org/page into {manual!r}, then prepare it once, with TensorFlow: "
        "`pip install 'deqjax[prepare]'` and "
        '`python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('imagenet2012', data_dir={str(tmp_path)!r}).download_and_prepare("
        "file_format='array_record', download_config=tfds.download.DownloadConfig("
        f'manual_dir={manual!r}))"`'
    )


def test_downloaded_files_are_only_to_be_prepared(tmp_path):
    for name in BY_HAND.files:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"prepare it once, with TensorFlow, from the files in '"):
        open_prepared(NAME, BY_HAND, directory=tmp_path / "data", manual_directory=tmp_path)


def test_what_tfds_downloads_is_only_to_be_prepared(tmp_path):
    sentence = r"prepare it once, with TensorFlow, which downloads 3 GB from https://example.org/p"
    with pytest.raises(ValueError, match=sentence):
        open_prepared(NAME, BY_TFDS, directory=tmp_path)


def test_nothing_is_written_where_data_are_missing(tmp_path):
    with pytest.raises(ValueError, match="is not prepared"):
        open_prepared(NAME, BY_TFDS, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_an_incomplete_data_set_is_refused(copied, file):
    root, folder = copied
    (folder / file).unlink()
    with pytest.raises(ValueError, match=r"5\.1\.0' is incomplete: delete that folder, and prepar"):
        open_prepared(NAME, BY_HAND, directory=root)


def truncated(text):
    return text[: len(text) // 2]


def emptied(text):
    return ""


def misspelled(text):
    return text.replace("name", "nbme").replace("Class", "Cl!ss")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("damage", [truncated, emptied, misspelled])
def test_a_damaged_description_is_refused(copied, file, damage):
    root, folder = copied
    (folder / file).write_text(damage((folder / file).read_text()))
    with pytest.raises(DataError, match=r"5\.1\.0' is damaged \(.*\): delete that .* `python -c"):
        open_prepared(NAME, BY_HAND, directory=root)


def test_a_format_that_needs_tensorflow_is_refused(copied):
    root, folder = copied
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="stored as tfrecord, which cannot be read without Tenso"):
        open_prepared(NAME, BY_HAND, directory=root)
