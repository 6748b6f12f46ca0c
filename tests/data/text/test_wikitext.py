import re
import shutil
import zipfile

import pytest
from tensorflow_datasets.core.utils.shard_utils import ShardConfig

from deqjax.data._prepare import prepared
from deqjax.data._read import read_texts
from deqjax.data.text import _wikitext
from deqjax.data.text._wikitext import WikiText, find_source

FILES = {
    "wiki.train.tokens": " \n = Naïve = \n \n The <unk> cat sat on the mat . \n \n".encode() * 40,
    "wiki.valid.tokens": b" \n The cat @-@ like dog . \r\n",
    "wiki.test.tokens": b" \n On the mat",
}
NAMES = {
    "train": "wiki.train.tokens",
    "validation": "wiki.valid.tokens",
    "test": "wiki.test.tokens",
}


def write_folder(folder, files=FILES):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_bytes(text)


def write_archive(folder, files=FILES, edition="wikitext-2"):
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{edition}-v1.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.mkdir(edition)
        for name, text in files.items():
            stream.writestr(f"{edition}/{name}", text)
    return archive


def prepare(tmp_path, folder=None, config="wikitext2"):
    folder = tmp_path / "manual" if folder is None else folder
    directory = tmp_path / "data"
    return prepared(WikiText, directory=directory, config=config, manual_directory=str(folder))


def read(builder):
    return {NAMES[s]: b"".join(read_texts(builder, s)) for s in builder.info.splits}


# Where the text is found


def zipped(manual):
    write_archive(manual)
    return manual


def unzipped(manual):
    with zipfile.ZipFile(write_archive(manual)) as archive:
        archive.extractall(manual)
    (manual / "wikitext-2-v1.zip").unlink()
    return manual


def loose(manual):
    write_folder(manual)
    return manual


def inside(manual):
    write_folder(manual / "wikitext-2")
    return manual / "wikitext-2"


@pytest.mark.parametrize("layout", [zipped, unzipped, loose, inside])
def test_the_text_is_stored_exactly(tmp_path, layout):
    assert read(prepare(tmp_path, layout(tmp_path / "manual"))) == FILES


def test_the_larger_edition_has_its_own_archive(tmp_path):
    write_archive(tmp_path / "manual", edition="wikitext-103")
    assert read(prepare(tmp_path, config="wikitext103")) == FILES


def test_the_folder_comes_before_the_archive_before_loose_files(tmp_path):
    manual, edition = tmp_path / "manual", _wikitext._EDITIONS["wikitext2"]
    write_folder(manual)
    assert find_source(manual, edition) == manual
    archive = write_archive(manual)
    assert find_source(manual, edition) == archive
    write_folder(manual / "wikitext-2")
    assert find_source(manual, edition) == manual / "wikitext-2"


def test_an_incomplete_folder_gives_way_to_the_archive(tmp_path):
    write_archive(tmp_path / "manual")
    write_folder(tmp_path / "manual" / "wikitext-2", {"wiki.train.tokens": b"half\n"})
    assert read(prepare(tmp_path)) == FILES


@pytest.mark.parametrize(
    ("config", "title", "archive"),
    [
        ("wikitext2", "WikiText-2", "wikitext-2-v1.zip (5 MB)"),
        ("wikitext103", "WikiText-103", "wikitext-103-v1.zip (190 MB)"),
    ],
)
def test_a_missing_archive_is_named_with_its_address_and_folder(tmp_path, config, title, archive):
    sentence = (
        f"there is no {title} in {str(tmp_path / 'manual')!r}: download "
        f"https://wikitext.smerity.com/{archive} into that folder, and leave it zipped or unzip "
        "it there"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        prepare(tmp_path, config=config)


def test_a_folder_with_a_file_missing_is_no_source(tmp_path):
    write_folder(tmp_path / "manual", {"wiki.train.tokens": b"a\n", "wiki.valid.tokens": b"a\n"})
    with pytest.raises(ValueError, match="there is no WikiText-2"):
        prepare(tmp_path)


def test_the_folder_of_another_edition_is_no_source(tmp_path):
    write_folder(tmp_path / "wikitext-103")
    with pytest.raises(ValueError, match="there is no WikiText-2"):
        prepare(tmp_path, tmp_path / "wikitext-103")


def test_prepared_text_needs_no_archive(tmp_path):
    write_archive(tmp_path / "manual")
    prepare(tmp_path)
    shutil.rmtree(tmp_path / "manual")
    assert read(prepare(tmp_path)) == FILES


# Damaged sources


def cut_short(content):
    return content[:-100]


def flip_a_bit_of_the_text(content):
    position = content.index(b"wiki.train.tokens") + 30
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def flip_a_bit_of_the_directory(content):
    position = content.rindex(b"wikitext-2/wiki.train.tokens") - 36  # the compression method
    return content[:position] + bytes([content[position] ^ 64]) + content[position + 1 :]


def a_page_of_html(_):
    return b"<html>403 Forbidden</html>"


@pytest.mark.parametrize(
    "damage", [cut_short, flip_a_bit_of_the_text, flip_a_bit_of_the_directory, a_page_of_html]
)
def test_a_damaged_archive_is_named_with_its_address(tmp_path, damage):
    archive = write_archive(tmp_path / "manual")
    archive.write_bytes(damage(archive.read_bytes()))
    sentence = r"wiki\.train\.tokens in '.*/manual/wikitext-2-v1\.zip' is damaged or cannot be "
    with pytest.raises(
        ValueError, match=f"^{sentence}.*download https://wikitext.smerity.com/wikitext-2-v1.zip a"
    ):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"", "it has no text"), (b"fine\ncaf\xe9\n", "'utf-8' codec can't decode byte 0xe9")],
)
@pytest.mark.parametrize("write", [write_archive, write_folder])
def test_a_file_that_is_no_text_is_named(tmp_path, write, text, reason):
    write(tmp_path / "manual", {**FILES, "wiki.test.tokens": text})
    with pytest.raises(ValueError, match=rf"wiki\.test\.tokens in .* is damaged .*\({reason}"):
        prepare(tmp_path)


def test_an_archive_without_a_file_is_refused(tmp_path):
    write_archive(tmp_path / "manual", {"wiki.train.tokens": b"a\n", "wiki.valid.tokens": b"a\n"})
    with pytest.raises(ValueError, match=r"damaged .*\(There is no item named .*test\.tokens' in"):
        prepare(tmp_path)


def test_nothing_of_a_damaged_archive_stays(tmp_path):
    write_archive(tmp_path / "manual", {**FILES, "wiki.test.tokens": b""})
    with pytest.raises(ValueError, match="damaged"):
        prepare(tmp_path)
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
    write_archive(tmp_path / "manual")
    assert read(prepare(tmp_path)) == FILES


# Order


def test_examples_are_whole_lines_in_their_order_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(_wikitext, "_BYTES_IN_EXAMPLE", 20)
    monkeypatch.setattr(ShardConfig, "min_shard_size", 500)
    lines = [f" line {number} of the text \n".encode() for number in range(120)]
    files = {**FILES, "wiki.train.tokens": b"".join(lines)}
    write_folder(tmp_path / "manual", files)
    builder = prepare(tmp_path)
    assert builder.info.splits["train"].num_shards > 2
    assert list(read_texts(builder, "train")) == lines


def test_real_text_is_stored_exactly(tmp_path, shared_data):
    files = {
        f"wiki.{split}.tokens": (shared_data / f"wikitext2_{source}.txt").read_bytes()
        for split, source in (("train", "test"), ("valid", "valid"), ("test", "test"))
    }
    write_folder(tmp_path / "manual", files)
    builder = prepare(tmp_path)
    assert read(builder) == files
    assert builder.info.splits["train"].num_examples == 3  # 1.2 MB in pieces of half a megabyte
