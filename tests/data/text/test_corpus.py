import shutil
import tempfile

import numpy as np
import pytest

from deqjax.data import CORPORA, Vocabulary, load_bytes, load_corpus

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
        ("stdlib", "file", "a.txt", "text_bytes, text_characters"),
        ("wikitext2", "file", "a.txt", "text_bytes, text_characters"),
        ("stdlib", "manual_directory", "manual", "wikitext103, wikitext2"),
        ("text_bytes", "manual_directory", "manual", "wikitext103, wikitext2"),
        ("stdlib", "fractions", (1, 0, 0), "text_bytes, text_characters"),
        ("wikitext103", "fractions", (1, 0, 0), "text_bytes, text_characters"),
    ],
)
def test_an_argument_of_another_corpus_is_refused(tmp_path, name, argument, value, others):
    needed = {"file": "b.txt"} if name == "text_bytes" else {}
    with pytest.raises(
        ValueError, match=f"the corpus '{name}' takes no {argument}, got .*: .* one of {others}$"
    ):
        load_corpus(name, directory=tmp_path, **needed, **{argument: value})
