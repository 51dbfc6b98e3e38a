import gzip
import json
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import GOLDEN

from imagebind_jax.inputs import text

CASES = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))


def test_equals_the_reference_on_every_golden_text():
    tokens = text.tokenize([case["text"] for case in CASES])
    assert tokens.shape == (len(CASES), 77) and tokens.dtype == np.int32
    for row, case in zip(tokens, CASES, strict=True):
        expected = case["tokens"] + [0] * (77 - len(case["tokens"]))
        assert row.tolist() == expected, case["text"]


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


def test_special_tokens_in_a_text_are_single_tokens():
    assert text.encode("<|startoftext|>dog<|endoftext|>") == [49406, 1929, 49407]


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_one_well_formed_row(string):
    tokens = text.tokenize(string)[0]
    assert tokens[0] == text.START and tokens.min() >= 0 and tokens.max() == text.END
    ids = text.encode(string)
    end = min(len(ids) + 1, 76)
    assert tokens[end] == text.END and (tokens[end + 1 :] == 0).all()


@settings(deadline=None)
@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz éß日🐶0123456789.,!?-", max_size=60))
def test_tokens_spell_the_text(string):
    pieces = spelling()
    spelled = b"".join(pieces[i] for i in text.encode(string)).decode()
    assert spelled.replace(" ", "") == text._clean(string).replace(" ", "")


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


def test_transform_picks_a_caption():
    record = {"text": ["a dog", "a car", "a bird"]}
    np.testing.assert_array_equal(text.Tokens()(record, None), text.tokenize("a dog")[0])
    rng = np.random.default_rng(0)
    seen = {tuple(text.Tokens()(record, rng)) for _ in range(30)}
    assert seen == {tuple(row) for row in text.tokenize(record["text"])}
    assert text.Tokens(context_length=8)({"text": "a dog"}, None).shape == (8,)
