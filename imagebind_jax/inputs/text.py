"""Text: CLIP's byte-pair encoding with its vocabulary of 49,408, 77 tokens a text."""

import dataclasses
import functools
import gzip
import html
import itertools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import ftfy
import numpy as np
import regex
from jaxtyping import Int

CONTEXT = 77
START, END = 49406, 49407  # the last two of 256 bytes + 256 word ends + 48,894 merges + 2
SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


def tokenize(
    texts: str | Sequence[str], context_length: int = CONTEXT
) -> Int[np.ndarray, "b context_length"]:
    """Token ids of one text or several, int32: start, the text, end, and zeros to the length.

    A text that is too long loses its tail and never its end token, whose position the encoder
    reads. Case, repeated space, HTML entities and broken encodings do not matter.
    """
    if context_length < 2:
        raise ValueError(f"context_length {context_length} has no room for start and end, use 77")
    texts = [texts] if isinstance(texts, str) else texts
    tokens = np.zeros((len(texts), context_length), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        ids = [START, *encode(text)][: context_length - 1] + [END]
        row[: len(ids)] = ids
    return tokens


def encode(text: str) -> list[int]:
    """Token ids of a text without start, end and padding."""
    return [token for word in WORD.findall(_clean(text)) for token in _encode_word(word)]


def _clean(text: str) -> str:
    text = html.unescape(html.unescape(ftfy.fix_text(text)))  # twice: scraped "&amp;amp;"
    return " ".join(text.split()).lower()


@functools.lru_cache(maxsize=1 << 16)
def _encode_word(word: str) -> tuple[int, ...]:
    if word in SPECIAL:
        return (SPECIAL[word],)
    byte_ids, merges = _vocabulary()
    tokens = [byte_ids[byte] for byte in word.encode()]
    tokens[-1] += 256  # the same byte as the end of a word
    while len(tokens) > 1:
        # A merge's id is its rank: the smallest is the one learned first.
        pairs = [merges.get(pair, END) for pair in itertools.pairwise(tokens)]
        best = min(pairs)
        if best == END:
            break
        merged, i = [], 0
        while i < len(tokens):
            together = i < len(pairs) and pairs[i] == best
            merged.append(best if together else tokens[i])
            i += 2 if together else 1
        tokens = merged
    return tuple(tokens)


@functools.cache
def _vocabulary() -> tuple[dict[int, int], dict[tuple[int, int], int]]:
    """Ids of single bytes, and of pairs of ids."""
    # The file spells a byte as a character: itself where it prints, else the next one from 256 on.
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    spelling = [chr(byte) for byte in printing] + [chr(256 + i) for i in range(len(others))]
    byte_ids = {byte: i for i, byte in enumerate(printing + others)}
    ids = {s: i for i, s in enumerate(spelling + [s + "</w>" for s in spelling])}
    packed = resources.files("imagebind_jax.inputs").joinpath("bpe/merges.txt.gz").read_bytes()
    merges = {}
    for line in gzip.decompress(packed).decode().splitlines():
        left, right = line.split(" ")
        merges[ids[left], ids[right]] = ids[left + right] = len(ids)
    return byte_ids, merges


@dataclasses.dataclass(frozen=True)
class Tokens:
    """record["text"] to [context_length] int32; of several texts rng picks one, else the first."""

    context_length: int = CONTEXT

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Int[np.ndarray, "context_length"]:
        text = record["text"]
        if not isinstance(text, str):
            text = text[0 if rng is None else int(rng.integers(len(text)))]
        return tokenize(text, self.context_length)[0]
