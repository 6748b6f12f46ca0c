"""Pieces of words: a tokenizer that is trained or read, and the way back to the text."""

import json
import sys

import numpy as np
import pytest

from deqjax.data import DataError, Vocabulary, load_corpus

TEXT = "to be or not to be,\n\nthat is the question: größer\n" * 30


@pytest.fixture(scope="module")
def trained():
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    return Vocabulary.of_pieces(TEXT, 280)


def test_every_text_comes_back(trained):
    assert trained.size == 280
    assert trained.dtype == np.uint16
    for text in (TEXT, "größer? 日本 \x00", ""):
        assert trained.decode(trained.encode(text)) == text
    assert len(trained.encode(TEXT)) < len(TEXT.encode()) / 2


def test_a_text_has_the_tokens_of_its_lines(trained):
    lines = TEXT.splitlines(keepends=True)
    whole = np.concatenate([trained.encode(line) for line in lines])
    np.testing.assert_array_equal(trained.encode(TEXT), whole)


def test_lines_are_neither_cut_nor_filled_up(trained, tmp_path):
    described = json.loads(trained.symbols[0])
    described["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    described["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    read = Vocabulary.from_tokenizer(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(read.encode(TEXT), trained.encode(TEXT))


def test_numbers_that_a_tokenizer_leaves_out_are_counted(trained):
    described = json.loads(trained.symbols[0])
    pieces = described["model"]["vocab"]
    last = max(pieces, key=pieces.get)
    pieces[last] = 300
    gapped = Vocabulary("pieces", (json.dumps(described),))
    assert gapped.size == 301
    assert gapped.decode([300]) == trained.decode([279])


def test_what_ends_within_a_character_waits(trained):
    decoder = trained.decoder()
    pieces = [decoder.decode(token) for token in trained.encode("日")]
    assert pieces == ["", "", "日"]
    decoder.decode(trained.encode("日")[0])
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(DataError, match="outside the vocabulary of 280 pieces"):
        decoder.decode(280)


def test_it_is_kept_as_json(trained):
    kept = json.loads(json.dumps(trained.to_dict()))
    again = Vocabulary.from_dict(kept)
    assert again == trained
    assert again.fingerprint == trained.fingerprint
    assert again != Vocabulary.of_pieces(TEXT, 270)


def test_a_corpus_has_pieces_of_its_training_text_or_of_a_file(trained, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "tokenizer.json").write_text(trained.symbols[0])
    options = {"file": tmp_path / "text.txt", "directory": tmp_path / "datasets"}
    corpus = load_corpus("text_pieces", limit_vocabulary=260, **options)
    assert corpus.vocabulary.size == 260
    decode = corpus.vocabulary.decode
    assert decode(corpus.train) + decode(corpus.validation) == TEXT
    read = load_corpus("text_pieces", tokenizer=tmp_path / "tokenizer.json", **options)
    assert read.vocabulary == trained
    with pytest.raises(DataError, match="takes no tokenizer"):
        load_corpus("text_bytes", tokenizer=tmp_path / "tokenizer.json", **options)
    with pytest.raises(DataError, match="does not hold the 256 bytes"):
        load_corpus("text_pieces", limit_vocabulary=9, **options)


def test_pieces_are_trained_and_a_text_encoded_once(trained, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    options = {"file": tmp_path / "text.txt", "directory": tmp_path / "datasets"}
    first = load_corpus("text_pieces", limit_vocabulary=260, **options)

    def again(*arguments):
        raise AssertionError("this was done before")

    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "of_pieces", again)
        patch.setattr(Vocabulary, "encode", again)
        for vocabulary in (None, first.vocabulary):
            found = load_corpus(
                "text_pieces", limit_vocabulary=260, vocabulary=vocabulary, **options
            )
            assert found.vocabulary == first.vocabulary
            np.testing.assert_array_equal(found.train, first.train)
    other = load_corpus("text_pieces", limit_vocabulary=260, vocabulary=trained, **options)
    assert other.vocabulary == trained
    assert trained.decode(other.train) == first.vocabulary.decode(first.train)
    (kept,) = (tmp_path / "datasets").rglob("pieces-1-260.json")
    kept.write_text("{")
    assert (
        load_corpus("text_pieces", limit_vocabulary=260, **options).vocabulary == first.vocabulary
    )


def test_what_is_no_tokenizer_is_refused(trained, tmp_path):
    with pytest.raises(DataError, match=r"absent\.json' cannot be read"):
        Vocabulary.from_tokenizer(tmp_path / "absent.json")
    (tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(DataError, match="this is no tokenizer"):
        Vocabulary.from_tokenizer(tmp_path / "wrong.json")
    with pytest.raises(DataError, match="one description of a tokenizer for pieces"):
        Vocabulary("pieces", ("a", "b"))


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"not installed: pip install 'deqjax\[pieces\]'"):
        Vocabulary.of_pieces(TEXT, 280)
