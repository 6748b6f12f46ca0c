import shutil
import tempfile

import numpy as np
import pytest

from deqjax.data import (
    CORPORA,
    DataError,
    Vocabulary,
    fingerprint,
    load_bytes,
    load_corpus,
)

TEXT = "Naïve cats.\r\nπ ≈ 3.14\n" * 20
FILES = {
    "wiki.train.tokens": " \n = Cats = \n \n the cat <unk> the mat \n",
    "wiki.valid.tokens": " the dog <unk> \n",
    "wiki.test.tokens": " cat \n the mat",
}
WORDS = ("<eos>", "=", "the", "Cats", "cat", "<unk>", "mat")


def as_text(tokens):
    return tokens.tobytes().decode()


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(TEXT.encode())
    return file


@pytest.fixture
def wikitext(tmp_path):
    """Arguments of `load_corpus` for a tiny WikiText-2."""
    folder = tmp_path / "manual" / "wikitext-2"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return {
        "name": "wikitext2",
        "directory": tmp_path / "data",
        "manual_directory": tmp_path / "manual",
    }


# The standard library


@pytest.mark.usefixtures("library")
def test_the_standard_library_is_its_bytes(tmp_path):
    corpus = load_corpus("stdlib", directory=tmp_path / "data")
    for split in ("train", "validation", "test"):
        expected = load_bytes(split, directory=tmp_path / "data")
        np.testing.assert_array_equal(getattr(corpus, split), expected, strict=True)
    assert corpus.vocabulary == Vocabulary.of_bytes()


# Text files


def test_words_of_a_text_are_those_of_its_training_part(tmp_path):
    (tmp_path / "text").write_text("the cat the dog\n" * 9 + "the bird zebra\n")
    corpus = load_corpus("text_words", directory=tmp_path / "data", file=tmp_path / "text")
    assert corpus.vocabulary.symbols == ("<eos>", "the", "cat", "dog", "<unk>")
    assert corpus.vocabulary.decode(corpus.validation).split() == ["the", "<unk>", "<unk>"]


def test_the_vocabulary_of_words_has_a_limit(tmp_path):
    (tmp_path / "text").write_text("the cat the dog\n" * 10)
    file = {"directory": tmp_path / "data", "file": tmp_path / "text"}
    corpus = load_corpus("text_words", limit_vocabulary=3, **file)
    assert corpus.vocabulary.symbols == ("<eos>", "the", "<unk>")
    assert corpus.vocabulary.decode(corpus.train[:5]) == "the <unk> the <unk>\n"


def test_a_word_is_whole_where_the_text_is_cut_into_examples(tmp_path, monkeypatch):
    monkeypatch.setattr("deqjax.data.text._text_file._CHARACTERS_IN_EXAMPLE", 7)
    (tmp_path / "text").write_text("zebras " * 3 + "giraffes " * 9)
    shares = {"fractions": (1.0, 0.0, 0.0)}
    corpus = load_corpus(
        "text_words", directory=tmp_path / "data", file=tmp_path / "text", **shares
    )
    assert corpus.vocabulary.symbols == ("<eos>", "giraffes", "zebras", "<unk>")


def test_a_folder_is_a_corpus(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in "ba":
        (tmp_path / "texts" / name).write_text(name * 9)
    corpus = load_corpus("text_bytes", directory=tmp_path / "data", file=tmp_path / "texts")
    assert as_text(corpus.train) + as_text(corpus.validation) == "a" * 9 + "\n" + "b" * 9


@pytest.mark.parametrize("name", ["text_bytes", "text_characters"])
def test_a_byte_order_mark_is_no_character(name, tmp_path):
    found = []
    for codec in ("utf-8", "utf-8-sig"):
        (tmp_path / "text").write_text(TEXT, codec)
        found.append(load_corpus(name, directory=tmp_path / "data", file=tmp_path / "text"))
    np.testing.assert_array_equal(found[0].train, found[1].train, strict=True)
    assert found[0].vocabulary == found[1].vocabulary


# What fingerprints of runs that exist already say of their text.
@pytest.mark.parametrize(
    ("name", "digest"),
    [("text_bytes", "be6be58d14d12ff6"), ("text_characters", "658b25a37549700f")],
)
def test_the_tokens_of_older_runs_stay_the_same(name, digest, text_file, tmp_path):
    tokens = load_corpus(name, directory=tmp_path / "data", file=text_file).train
    assert fingerprint(tokens, length=8, batch_size=2, seed=0)["tokens"] == digest


# Vocabularies of a run


def test_the_vocabulary_of_a_run_keeps_its_numbers(text_file, tmp_path):
    arguments = {"name": "text_characters", "directory": tmp_path / "data", "file": text_file}
    before = load_corpus(**arguments)
    text_file.write_text(TEXT.replace("N", "cc"), newline="")  # one character fewer
    after = load_corpus(**arguments, vocabulary=before.vocabulary)
    assert after.vocabulary == before.vocabulary
    assert load_corpus(**arguments).vocabulary != before.vocabulary
    text = before.vocabulary.decode(after.train) + before.vocabulary.decode(after.validation)
    assert text == TEXT.replace("N", "cc")


def test_a_character_that_a_run_does_not_know_is_refused(text_file, tmp_path):
    arguments = {"name": "text_characters", "directory": tmp_path / "data", "file": text_file}
    vocabulary = load_corpus(**arguments).vocabulary
    text_file.write_text(TEXT + "!", newline="")
    with pytest.raises(DataError, match=r"the vocabulary has no character '!' \(U\+0021\)"):
        load_corpus(**arguments, vocabulary=vocabulary)


def test_a_vocabulary_of_another_kind_is_refused(text_file, tmp_path):
    with pytest.raises(DataError, match=r"'text_bytes' has tokens for bytes, but .* of characters"):
        load_corpus(
            "text_bytes",
            directory=tmp_path,
            file=text_file,
            vocabulary=Vocabulary.of_characters("ab"),
        )


def test_wikitext_takes_the_vocabulary_of_a_run(wikitext):
    own = load_corpus(**wikitext)
    other = Vocabulary.of_words("the mat <unk>")
    again = load_corpus(**wikitext, vocabulary=other)
    np.testing.assert_array_equal(again.train, other.encode(own.vocabulary.decode(own.train)))
    assert load_corpus(**wikitext, vocabulary=own.vocabulary).vocabulary == own.vocabulary


def test_bytes_of_a_text_are_those_of_the_file(text_file, tmp_path):
    corpus = load_corpus("text_bytes", directory=tmp_path / "data", file=text_file)
    cut = len(TEXT) * 9 // 10  # in characters: no split begins within one
    assert as_text(corpus.train) == TEXT[:cut]
    assert as_text(corpus.validation) == TEXT[cut:]
    assert corpus.vocabulary == Vocabulary.of_bytes()


def test_characters_are_numbered_over_the_whole_file(text_file, tmp_path):
    text_file.write_text("abcabcabcz")
    corpus = load_corpus("text_characters", directory=tmp_path / "data", file=text_file)
    assert corpus.vocabulary.symbols == ("a", "b", "c", "z")
    assert (corpus.train.tolist(), corpus.validation.tolist()) == ([0, 1, 2] * 3, [3])


def test_fractions_cut_the_text(text_file, tmp_path):
    shares = {"directory": tmp_path / "data", "fractions": (0.5, 0.25, 0.25)}
    corpus = load_corpus("text_bytes", file=text_file, **shares)
    splits = corpus.train, corpus.validation, corpus.test
    assert [len(as_text(tokens)) for tokens in splits] == [len(TEXT) // n for n in (2, 4, 4)]
    assert "".join(map(as_text, splits)) == TEXT


@pytest.mark.parametrize("name", ["text_bytes", "text_characters"])
def test_a_split_of_fraction_zero_is_empty(text_file, tmp_path, name):
    corpus = load_corpus(name, directory=tmp_path / "data", file=text_file, fractions=(1, 0, 0))
    assert corpus.train.size > 0
    for empty in (corpus.validation, corpus.test):
        assert (empty.shape, empty.dtype) == ((0,), np.uint8)


def test_fractions_that_are_none_are_refused(text_file, tmp_path):
    with pytest.raises(ValueError, match="fractions must be the shares"):
        load_corpus("text_bytes", directory=tmp_path, file=text_file, fractions=())


def test_an_edited_text_is_prepared_again(text_file, tmp_path):
    texts = [TEXT, TEXT.replace("3", "4"), TEXT]
    for text in texts:
        text_file.write_bytes(text.encode())
        corpus = load_corpus("text_bytes", directory=tmp_path / "data", file=text_file)
        assert as_text(corpus.train) + as_text(corpus.validation) == text


def test_a_prepared_text_is_read_without_writing(text_file, tmp_path, monkeypatch):
    first = load_corpus("text_bytes", directory=tmp_path / "data", file=text_file)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: pytest.fail("prepared twice"))
    again = load_corpus("text_characters", directory=tmp_path / "data", file=text_file)
    assert again.vocabulary.decode(again.train) == as_text(first.train)


def test_shakespeare_has_the_counts_of_the_character_benchmarks(shared_data, tmp_path):
    file = shared_data / "tinyshakespeare.txt"
    corpus = load_corpus("text_characters", directory=tmp_path, file=file)
    sizes = corpus.vocabulary.size, corpus.train.size, corpus.validation.size, corpus.test.size
    assert sizes == (65, 1_003_854, 111_540, 0)
    parts = [corpus.vocabulary.decode(part) for part in (corpus.train, corpus.validation)]
    assert "".join(parts).encode() == file.read_bytes()


# WikiText


def test_words_are_numbered_by_the_training_split(wikitext):
    corpus = load_corpus(**wikitext)
    assert corpus.vocabulary.symbols == WORDS
    words = [[WORDS[token] for token in tokens] for tokens in corpus[:3]]
    assert [" ".join(split) for split in words] == [
        "<eos> = Cats = <eos> <eos> the cat <unk> the mat <eos>",
        "the <unk> <unk> <eos>",
        "cat <eos> the mat <eos>",  # the last line gets its end
    ]


def test_words_are_encoded_once(wikitext, monkeypatch):
    first = load_corpus(**wikitext)
    monkeypatch.setattr(Vocabulary, "of_words", lambda _: pytest.fail("encoded twice"))
    again = load_corpus(**wikitext)
    assert again.vocabulary == first.vocabulary
    for tokens, expected in zip(again[:3], first[:3], strict=True):
        np.testing.assert_array_equal(tokens, expected, strict=True)


def test_tokens_go_with_the_data_set_that_they_encode(wikitext):
    load_corpus(**wikitext)
    shutil.rmtree(wikitext["directory"] / "wiki_text")
    (wikitext["manual_directory"] / "wikitext-2" / "wiki.train.tokens").write_text("new <unk>\n")
    assert load_corpus(**wikitext).vocabulary.symbols == ("<eos>", "new", "<unk>")


def test_damaged_tokens_are_refused(wikitext):
    load_corpus(**wikitext)
    (file,) = wikitext["directory"].rglob("train.npy")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"tokens in '.*/words-\d' are damaged .*train\.npy"):
        load_corpus(**wikitext)


def test_an_archive_is_looked_for_where_tfds_keeps_manual_downloads(tmp_path):
    with pytest.raises(ValueError, match=f"in '{tmp_path}/downloads/manual': download https"):
        load_corpus("wikitext2", directory=tmp_path)


def test_a_tilde_is_the_home_folder(wikitext, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    corpus = load_corpus("wikitext2", directory="~/data", manual_directory="~/manual")
    assert (corpus.vocabulary.symbols, wikitext["directory"].is_dir()) == (WORDS, True)


def test_wikitext_2_has_the_published_numbers_of_tokens(wikitext, shared_data):
    # Merity et al. (2017), section 4.3: 217 646 tokens for validation and 245 569 for test.
    for split, source in (("train", "valid"), ("valid", "valid"), ("test", "test")):
        target = wikitext["manual_directory"] / "wikitext-2" / f"wiki.{split}.tokens"
        shutil.copyfile(shared_data / f"wikitext2_{source}.txt", target)
    corpus = load_corpus(**wikitext)
    assert (corpus.validation.size, corpus.test.size) == (217_646, 245_569)
    np.testing.assert_array_equal(corpus.train, corpus.validation, strict=True)


# Arguments


def test_an_unknown_corpus_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"no corpus 'ptb': choose one of {', '.join(CORPORA)}$"):
        load_corpus("ptb", directory=tmp_path)


@pytest.mark.parametrize("name", ["text_bytes", "text_characters"])
def test_a_text_without_a_file_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"'{name}' needs a file: give a UTF-8 text file"):
        load_corpus(name, directory=tmp_path)


@pytest.mark.parametrize(
    ("name", "argument", "value", "others"),
    [
        ("stdlib", "file", "a.txt", "text_bytes, text_characters, text_words, text_pieces"),
        ("wikitext2", "file", "a.txt", "text_bytes, text_characters, text_words, text_pieces"),
        ("stdlib", "manual_directory", "manual", "wikitext103, wikitext2"),
        ("text_bytes", "manual_directory", "manual", "wikitext103, wikitext2"),
        ("stdlib", "fractions", (1, 0, 0), "text_bytes, text_characters, text_words, text_pieces"),
        (
            "wikitext103",
            "fractions",
            (1, 0, 0),
            "text_bytes, text_characters, text_words, text_pieces",
        ),
    ],
)
def test_an_argument_of_another_corpus_is_refused(tmp_path, name, argument, value, others):
    needed = {"file": "b.txt"} if name == "text_bytes" else {}
    with pytest.raises(
        ValueError, match=f"the corpus '{name}' takes no {argument}, got .*: .* one of {others}$"
    ):
        load_corpus(name, directory=tmp_path, **needed, **{argument: value})
