import functools
import gzip
import html
import inspect
import itertools
import json
import pathlib
import time
from importlib import resources

import ftfy
import numpy as np
import pytest
from hypothesis import strategies as st
from properties import of_any
from samples import GOLDEN

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import text

CASES = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))


def test_equals_the_reference_on_every_golden_text():
    tokens = text.tokenize([case["text"] for case in CASES])
    assert tokens.shape == (len(CASES), 77) and tokens.dtype == np.int32
    for row, case in zip(tokens, CASES, strict=True):
        expected = case["tokens"] + [0] * (77 - len(case["tokens"]))
        assert row.tolist() == expected, case["text"]


def test_equals_open_clip_on_texts_of_every_kind():
    """golden/make_tokens_fuzzed.py says how they were made; they may change only with ftfy."""
    cases = json.loads((GOLDEN / "tokens_fuzzed.json").read_text(encoding="utf-8"))
    assert len(cases) > 300
    for string, expected in cases:
        row = text.tokenize(string)[0].tolist()
        assert row == expected + [0] * (77 - len(expected)), ascii(string)


def test_one_text_is_a_batch_of_one():
    np.testing.assert_array_equal(text.tokenize("A dog."), text.tokenize(["A dog."]))
    assert text.tokenize("A dog.")[0, :6].tolist() == [49406, 320, 1929, 269, 49407, 0]
    assert text.tokenize([]).shape == (0, 77)


def test_what_does_not_matter():
    for same in ("  a\n DOG ", "a&#32;dog", "a&amp;#32;dog", "A\u00a0Dog"):
        assert text.encode(same) == text.encode("a dog")
    assert text.encode("cafÃ©") == text.encode("café")


def test_truncation_keeps_the_end_token():
    tokens = text.tokenize("dog " * 200)[0]
    assert tokens[0] == 49406 and tokens[-1] == 49407 and (tokens[1:-1] == 1929).all()
    assert text.tokenize("dog dog dog", context_length=4)[0].tolist() == [49406, 1929, 1929, 49407]
    with pytest.raises(ValueError, match="context_length 1"):
        text.tokenize("dog", context_length=1)
    with pytest.raises(ValueError, match="context_length 1"):
        text.Tokenize(1)


@pytest.mark.parametrize(
    "wrong", [None, [1], 7, b"a dog", pathlib.Path("a dog"), ["a dog", None], [["a dog"]], {"a"}]
)
def test_what_is_no_text_is_said_so(wrong):
    tokenize = inspect.unwrap(text.tokenize)  # without the checks of types, as users have it
    with pytest.raises(UserError, match="a text must be a str"):
        tokenize(wrong)


def test_special_tokens_in_a_text_are_single_tokens():
    assert text.encode("<|startoftext|>dog<|endoftext|>") == [49406, 1929, 49407]


@of_any(st.text(max_size=200))
def test_any_text_gives_one_well_formed_row(string):
    tokens = text.tokenize(string)[0]
    assert tokens[0] == text.START and tokens.min() >= 0 and tokens.max() == text.END
    ids = text.encode(string)
    end = min(len(ids) + 1, 76)
    assert tokens[end] == text.END and (tokens[end + 1 :] == 0).all()


@of_any(st.text(alphabet="abcdefghijklmnopqrstuvwxyz éß日🐶0123456789.,!?-", max_size=60))
def test_tokens_spell_the_text(string):
    pieces = spelling()
    spelled = b"".join(pieces[i] for i in text.encode(string)).decode()
    assert spelled.replace(" ", "") == "".join(text._cleaned(string)).replace(" ", "")


@functools.cache
def spelling() -> list[bytes]:
    byte_ids, merges = text._vocabulary()
    pieces = dict.fromkeys(range(text.START), b"")
    for byte, i in byte_ids.items():
        pieces[i] = bytes([byte])
        pieces[i + 256] = bytes([byte]) + b" "
    for (left, right), i in merges.items():
        pieces[i] = pieces[left] + pieces[right]
    return [pieces[i] for i in range(text.START)]


def test_vocabulary_is_whole_and_packed_without_a_date():
    byte_ids, merges = text._vocabulary()
    assert sorted(byte_ids.values()) == list(range(256))
    assert sorted(merges.values()) == list(range(512, 49406))
    packed = resources.files("imagebind_jax.inputs").joinpath("bpe/merges.txt.gz").read_bytes()
    assert packed[4:8] == b"\0\0\0\0" and len(gzip.decompress(packed).splitlines()) == 48_894


def by_the_book(word: str) -> list[int]:
    """Byte-pair encoding as it is usually told: the rule learned first is used up, then the next."""
    packed = resources.files("imagebind_jax.inputs").joinpath("bpe/merges.txt.gz").read_bytes()
    rules = [tuple(line.split(" ")) for line in gzip.decompress(packed).decode().splitlines()]
    byte_ids, _ = text._vocabulary()
    printing = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    letters = {byte: chr(byte if byte in printing else next(others)) for byte in range(256)}
    ids = {
        letters[byte] + end: i + n
        for byte, i in byte_ids.items()
        for end, n in (("", 0), ("</w>", 256))
    }
    ids |= {left + right: 512 + i for i, (left, right) in enumerate(rules)}
    pieces = [letters[byte] for byte in word.encode()]
    pieces[-1] += "</w>"
    ranks = {rule: rank for rank, rule in enumerate(rules)}
    while rule := min(
        (r for r in itertools.pairwise(pieces) if r in ranks), key=ranks.get, default=None
    ):
        merged = []
        for piece in pieces:
            if merged and (merged[-1], piece) == rule:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
    return [ids[piece] for piece in pieces]


def test_a_plain_implementation_agrees():
    for word in (
        "photograph",
        "aaaaaaa",
        "!!!!!",
        "日本語",
        "hahahaha",
        "supercalifragilistic",
        "é",
    ):
        assert list(text._encode_short(word)) == by_the_book(word)


WORDS = st.one_of(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=33, max_size=150),
    st.text("ab", min_size=33, max_size=150),
    st.text("!.-_=é日🐶", min_size=33, max_size=60),
    st.tuples(st.text("aehinorst🐶", min_size=1, max_size=5), st.integers(33, 60)).map(
        lambda pair: pair[0] * pair[1]
    ),
)


@of_any(WORDS, st.integers(1, 80), examples=100)
def test_the_first_tokens_of_a_long_word_are_those_of_merging_all_of_it(word, most):
    expected = list(text._merged(text._bytes(word)))
    assert text.encode_long(word, None) == expected
    assert text.encode_long(word, most) == expected[:most]


def test_every_token_is_the_encoding_of_what_it_spells():
    """What `encode_long` rests on, for each of 49,406; together with the property above."""
    pieces, ids, longest = text._spellings()
    assert len(ids) == len(pieces) == 49_406 and longest == max(map(len, pieces))
    for i in range(0, len(pieces), 23):
        assert text._merged([ord(byte) for byte in pieces[i]]) == (i,)


LINES = ["dog\n", "\n", " \t\r\n", "&amp;lt;\n", "<b>", "&lt;", "&am", "p;", "Ã©\n", "\u2028"]
LINES += ["ΟΔΟΣ", "\r", "\x85", "\xa0", "&#10;", "\x0b", "É", "caf", " ", "'S", "<|endoftext|>"]


@of_any(st.lists(st.sampled_from(LINES), max_size=30).map("".join), examples=200)
def test_cleaning_by_lines_is_cleaning_at_once(string):
    whole = html.unescape(html.unescape(ftfy.fix_text(string)))
    assert " ".join(filter(None, text._cleaned(string))) == " ".join(whole.split()).lower()


@pytest.mark.parametrize(
    "string",
    [
        "a" * 10_000_000,
        "ab!" * 3_000_000,
        "dog " * 2_500_000,
        " " * 10_000_000,
        "\n" * 10_000_000,
        "\x01\n" * 5_000_000,
        "&amp;" * 2_000_000,
    ],
    ids=["word", "words", "text", "spaces", "lines", "control", "entities"],
)
def test_ten_million_characters_take_no_longer_than_they_need(string):
    start = time.process_time()
    tokens = text.tokenize(string)
    assert time.process_time() - start < 2.0
    np.testing.assert_array_equal(tokens, text.tokenize(string[:30_000]))


def test_transform_picks_a_caption():
    record = {"text": ["a dog", "a car", "a bird"]}
    np.testing.assert_array_equal(text.Tokenize()(record, None), text.tokenize("a dog")[0])
    rng = np.random.default_rng(0)
    seen = {tuple(text.Tokenize()(record, rng)) for _ in range(30)}
    assert seen == {tuple(row) for row in text.tokenize(record["text"])}
    assert text.Tokenize(context_length=8)({"text": "a dog"}, None).shape == (8,)


@pytest.mark.parametrize(
    ("given_text", "reason"),
    [
        ([], r"text is \[\] \(list\)"),
        (b"a dog", "bytes"),
        (pathlib.Path("caption.txt"), "PosixPath"),
        ([b"a dog"], "text holds b'a dog' .bytes.: expected a str"),
        ([["a dog"]], "text holds"),
        (7, "int"),
        ("&#" + "9" * 5000 + ";", "Exceeds the limit"),
        (None, "no field 'text'"),
    ],
)
def test_what_is_no_text_is_a_media_error(given_text, reason):
    with pytest.raises(MediaError, match=f"^7: .*{reason}"):
        text.Tokenize()({"text": given_text, "id": 7}, None)


def test_a_str_is_never_the_name_of_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("a dog")
    name = str(tmp_path / "a.txt")
    np.testing.assert_array_equal(text.Tokenize()({"text": name}, None), text.tokenize(name)[0])
