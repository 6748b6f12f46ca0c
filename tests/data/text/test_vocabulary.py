import json
from collections import Counter

import numpy as np
import pytest

from deqjax.data import Vocabulary

TEXT = " the cat sat \n\n on the mat , the  end \n"
WORDS = Vocabulary.of_words(TEXT)
UNICODE = "naïve π ≈ 3.14 🙂\n"
EVERY = {
    "bytes": Vocabulary.of_bytes(),
    "characters": Vocabulary.of_characters(TEXT + UNICODE),
    "words": WORDS,
}


# Building


def test_words_stand_by_frequency_and_ties_by_first_occurrence():
    expected = ("<eos>", "the", "cat", "sat", "on", "mat", ",", "end")
    assert WORDS.symbols == expected


def test_the_order_of_real_words_is_that_of_a_plain_count(shared_data):
    text = (shared_data / "wikitext2_valid.txt").read_text(encoding="utf-8")
    counts = Counter(word for line in text.split("\n") for word in line.strip().split())
    first = {word: position for position, word in reversed(list(enumerate(text.split())))}
    expected = sorted(counts, key=lambda word: (-counts[word], first[word]))
    assert Vocabulary.of_words(text).symbols == ("<eos>", *expected)


def test_a_text_in_pieces_has_the_words_of_the_whole():
    assert Vocabulary.of_words(TEXT.splitlines(keepends=True)) == WORDS


@pytest.mark.parametrize(
    ("limit", "symbols"),
    [
        (6, ("<eos>", "a", "b", "c", "d", "<unk>")),  # nothing is left out
        (9, ("<eos>", "a", "b", "c", "d", "<unk>")),
        (5, ("<eos>", "a", "b", "c", "<unk>")),  # as often as c: the word is first
        (4, ("<eos>", "a", "b", "<unk>")),
        (3, ("<eos>", "a", "<unk>")),
    ],
)
def test_a_limit_keeps_the_most_frequent_words(limit, symbols):
    words = "a " * 4 + "b " * 2 + "c d"  # 4, 2, 1 and 1
    assert Vocabulary.of_words(words, limit).symbols == symbols


def test_an_unk_of_the_text_stands_for_the_words_that_are_left_out_too():
    vocabulary = Vocabulary.of_words("a a a b b <unk> <unk> c", 4)
    assert vocabulary.symbols == ("<eos>", "a", "<unk>", "b")
    assert vocabulary.encode("c <unk> a").tolist() == [2, 2, 1]


def test_a_limit_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="at most 2 symbols leaves no word beside <eos> and <unk>"):
        Vocabulary.of_words("a b", 2)


def test_an_end_of_line_in_the_text_is_no_second_word():
    assert Vocabulary.of_words("a <eos> b").symbols == ("<eos>", "a", "b")


def test_characters_are_sorted_by_code_point():
    assert Vocabulary.of_characters("banana é A").symbols == (" ", "A", "a", "b", "n", "é")


def test_a_text_without_characters_has_no_vocabulary():
    with pytest.raises(ValueError, match="an empty text has no characters"):
        Vocabulary.of_characters("")


@pytest.mark.parametrize(
    ("kind", "symbols", "sentence"),
    [
        ("letters", (), "no vocabulary of 'letters': choose bytes, characters, words"),
        ("characters", ("a", "b", "a"), "must not hold 'a' twice"),
        ("bytes", ("a",), "none for bytes"),
        ("characters", ("ab",), "none for characters"),
        ("characters", (), "none for characters"),
        ("words", ("a", "<eos>"), "none for words"),
        ("words", ("<eos>", "a b"), "none for words"),
    ],
)
def test_symbols_that_do_not_fit_are_refused(kind, symbols, sentence):
    with pytest.raises(ValueError, match=sentence):
        Vocabulary(kind, symbols)


# Encoding


def test_every_newline_ends_a_line_even_a_blank_one():
    words = " ".join(WORDS.symbols[token] for token in WORDS.encode(TEXT))
    assert words == "the cat sat <eos> <eos> on the mat , the end <eos>"


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_newlines_of_every_system_are_alike(newline):
    tokens = WORDS.encode(TEXT.replace("\n", newline))
    np.testing.assert_array_equal(tokens, WORDS.encode(TEXT), strict=True)


def test_a_prompt_may_end_within_a_line():
    assert WORDS.encode("the cat").tolist() == [1, 2]


def test_bytes_are_utf_8():
    assert EVERY["bytes"].encode(UNICODE).tobytes() == UNICODE.encode()


def test_characters_are_their_places_in_the_alphabet():
    vocabulary = EVERY["characters"]
    expected = [vocabulary.symbols.index(character) for character in UNICODE]
    assert vocabulary.encode(UNICODE).tolist() == expected


@pytest.mark.parametrize("kind", EVERY)
def test_an_empty_text_has_no_tokens(kind):
    assert EVERY[kind].encode("").shape == (0,)


@pytest.mark.parametrize(
    ("size", "dtype"), [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.int32)]
)
def test_tokens_have_the_smallest_type_that_holds_them(size, dtype):
    vocabulary = Vocabulary("words", ("<eos>", *(f"w{i}" for i in range(size - 1))))
    tokens = vocabulary.encode(f"w{size - 2}")
    assert (tokens.dtype, tokens.tolist()) == (dtype, [size - 1])


def test_an_unknown_word_becomes_unk_where_there_is_one():
    vocabulary = Vocabulary.of_words("a <unk> b")
    assert vocabulary.encode("a zebra b").tolist() == vocabulary.encode("a <unk> b").tolist()


def test_the_first_unknown_word_is_named():
    with pytest.raises(ValueError, match=r"no word 'dog' and no <unk> .* train on bytes"):
        WORDS.encode("the dog sat on a log")


def test_the_first_unknown_character_is_named():
    with pytest.raises(ValueError, match=r"no character '€' \(U\+20AC\): .* train on bytes"):
        EVERY["characters"].encode("the € and the ¥")


def test_half_a_character_has_no_bytes():
    with pytest.raises(ValueError, match="half of a character"):
        EVERY["bytes"].encode("a\udc80")


# Decoding


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_a_text_comes_back(kind):
    assert EVERY[kind].decode(EVERY[kind].encode(TEXT + UNICODE)) == TEXT + UNICODE


def test_words_come_back_with_single_spaces():
    assert WORDS.decode(WORDS.encode(TEXT)) == "the cat sat\n\non the mat , the end\n"


def test_real_words_come_back(shared_data):
    text = (shared_data / "wikitext2_valid.txt").read_text(encoding="utf-8")
    vocabulary = Vocabulary.of_words(text)
    stripped = "".join(f"{' '.join(line.split())}\n" for line in text.split("\n")[:-1])
    assert vocabulary.decode(vocabulary.encode(text)) == stripped


def test_bytes_that_are_no_utf_8_are_replaced():
    assert EVERY["bytes"].decode([65, 255, 66, 0xC3]) == "A\ufffdB\ufffd"


@pytest.mark.parametrize("kind", EVERY)
def test_pieces_of_a_decoder_make_the_whole(kind):
    tokens = EVERY[kind].encode(TEXT)
    decoder = EVERY[kind].decoder()
    pieces = [decoder.decode(token) for token in tokens] + [decoder.finish()]
    assert "".join(pieces) == EVERY[kind].decode(tokens)


def test_a_character_of_several_bytes_comes_whole():
    decoder = EVERY["bytes"].decoder()
    assert [decoder.decode([byte]) for byte in "🙂".encode()] == ["", "", "", "🙂"]


def test_text_after_a_prompt_begins_with_a_space():
    decoder = WORDS.decoder()
    decoder.decode(WORDS.encode("the cat"))
    assert decoder.decode(WORDS.encode("sat")) == " sat"


@pytest.mark.parametrize("token", [-1, 8])
def test_a_token_outside_the_vocabulary_is_named(token):
    with pytest.raises(ValueError, match=f"token {token} is outside the vocabulary of 8 words"):
        WORDS.decode([0, token])


@pytest.mark.parametrize("wrong", [[0.5], [[1, 2]]])
def test_what_is_no_vector_of_tokens_is_not_decoded(wrong):
    with pytest.raises(ValueError, match="tokens must be integers in a vector"):
        WORDS.decode(wrong)


# Saving


@pytest.mark.parametrize("kind", EVERY)
def test_a_vocabulary_survives_json(kind):
    assert Vocabulary.from_dict(json.loads(json.dumps(EVERY[kind].to_dict()))) == EVERY[kind]


@pytest.mark.parametrize("values", [{}, {"kind": "bytes"}, {"kind": "words", "symbols": "<eos>"}])
def test_what_is_no_saved_vocabulary_is_refused(values):
    with pytest.raises(ValueError, match="a saved vocabulary has"):
        Vocabulary.from_dict(values)


def test_the_fingerprint_names_the_order():
    orders = [("<eos>", "a", "b"), ("<eos>", "b", "a")]
    assert len({Vocabulary("words", order).fingerprint for order in orders}) == 2


def test_the_fingerprint_names_the_kind():
    kinds = [Vocabulary("words", ("<eos>",)), Vocabulary("characters", ("<",))]
    assert len({vocabulary.fingerprint for vocabulary in (*kinds, EVERY["bytes"])}) == 3


def test_the_fingerprint_is_sixteen_stable_digits():
    # The value of the first run: checkpoints may hold it.
    assert EVERY["bytes"].fingerprint == "9368e9fd183b0db9"


def test_a_vocabulary_of_many_words_prints_short():
    assert repr(WORDS) == "Vocabulary(8 words)"
