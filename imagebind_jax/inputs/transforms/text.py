"""Text: CLIP's byte-pair encoding with its vocabulary of 49,408, 77 tokens a text."""

import dataclasses
import functools
import gzip
import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import ftfy
import numpy as np
import regex
from jaxtyping import Int

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import first_field, wrap_decode_errors
from imagebind_jax.inputs.transforms.validation import check_int

CONTEXT = 77
# What a text is bounded by: ftfy takes 4 us a character and 15 us a line. It, too, takes a longer
# line in pieces of so many characters, so up to here all of a text counts, as in the reference.
MAX_CHARACTERS, MAX_LINES = 1_000_000, 10_000
SHORT_WORD = 32  # characters: longer words are not worth remembering, and merging takes n^2
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
    reads. Case, repeated space, HTML entities and broken encodings do not matter. No more of a long
    text is looked at than its tokens need; of its first `MAX_CHARACTERS` and `MAX_LINES`, that is.
    Raises UserError for what is no str.
    """
    _check_length(context_length)
    texts = [texts] if isinstance(texts, str) else texts
    if isinstance(texts, bytes) or not isinstance(texts, Sequence):
        raise UserError(f"a text must be a str, or several of them in a list, not {_short(texts)}")
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"a text must be a str, not {_short(text)}")
    tokens = np.zeros((len(texts), context_length), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        ids = [START, *encode(text, context_length - 2), END]
        row[: len(ids)] = ids
    return tokens


def _check_length(context_length: Any) -> None:
    check_int(context_length=context_length)
    if context_length < 2:
        raise UserError(f"context_length {context_length} has no room for start and end, use 77")


def encode(text: str, most: int | None = None) -> list[int]:
    """Token ids of a text without start, end and padding; only the first ones if `most` says so."""
    ids: list[int] = []
    for line in _cleaned(text):
        for match in WORD.finditer(line):
            word = match[0]
            if len(word) <= SHORT_WORD:
                ids += _encode_short(word)
            else:
                ids += encode_long(word, None if most is None else most - len(ids))
            if most is not None and len(ids) >= most:
                return ids[:most]
    return ids


def _cleaned(text: str) -> Iterator[str]:
    """The text line by line, as it is if cleaned at once: what cleaning does ends at line breaks."""
    text, start, lines = text[:MAX_CHARACTERS], 0, 0
    settings = ftfy.TextFixerConfig(explain=False)
    while start < len(text) and lines < MAX_LINES:
        line = text[start : text.find("\n", start) + 1 or None]
        start += len(line)
        if not line.strip(" \t\r\n"):
            continue
        lines += 1
        if "<" in line:  # it may be HTML, in which ftfy leaves entities alone from here on
            settings = settings._replace(unescape_html=False)
        line = ftfy.fix_text(line, settings)
        line = html.unescape(html.unescape(line))  # twice: scraped "&amp;amp;"
        yield " ".join(line.split()).lower()


@functools.lru_cache(maxsize=1 << 16)
def _encode_short(word: str) -> tuple[int, ...]:
    return (SPECIAL[word],) if word in SPECIAL else _merged(_bytes(word))


def _bytes(word: str) -> list[int]:
    """The ids of a word's bytes, of which the last says that it ends the word."""
    byte_ids, _ = _vocabulary()
    tokens = [byte_ids[byte] for byte in word.encode()]
    tokens[-1] += 256
    return tokens


def _merged(tokens: Sequence[int]) -> tuple[int, ...]:
    """Byte-pair encoding: of all pairs that merge the one learned first, wherever it is; again."""
    _, merges = _vocabulary()
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


def encode_long(word: str, most: int | None) -> list[int]:
    """The first `most` tokens of a word, in time that grows with `most` and not with the word.

    Tokens in a row are the encoding of what they spell if each two neighbours are: byte-pair
    encoding is local in this sense. So the word up to each of its bytes has one last token, the
    one that goes with the last token before it. Any longer word's encoding passes through one of
    the last places that a token's length covers: once they agree on the first tokens, so does all
    that may follow.
    """
    pieces, ids, longest = _spellings()
    text = "".join(pieces[byte] for byte in _bytes(word))
    last: list[tuple[int, int]] = []  # up to each byte: where the last token starts, its id
    firsts: list[tuple[int, int]] = []  # ... how many tokens there are, where the `most`th ends
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - longest), end):
            token = ids.get(text[start:end], -1)
            if token >= 0 and (start == 0 or _are_apart(last[start - 1][1], token)):
                break
        last.append((start, token))
        count, place = firsts[start - 1] if start else (0, 0)
        firsts.append((count + 1, end if count + 1 == most else place))
        if most is not None and end % longest == 0:
            ways = firsts[-longest:]
            if min(ways)[0] >= most and len({way[1] for way in ways}) == 1:
                break
    tokens = []
    while end:
        end, token = last[end - 1]
        tokens.append(token)
    return tokens[::-1][:most]


@functools.lru_cache(maxsize=1 << 16)
def _are_apart(left: int, right: int) -> bool:
    """Whether two tokens beside each other stay two."""
    pieces, _, _ = _spellings()
    return _merged([ord(byte) for byte in pieces[left] + pieces[right]]) == (left, right)


@functools.cache
def _spellings() -> tuple[list[str], dict[str, int], int]:
    """What each id stands for, one character for the id of a byte; its inverse; the longest."""
    pieces = [chr(byte) for byte in range(512)]
    for left, right in _vocabulary()[1]:  # in the order of their ids
        pieces.append(pieces[left] + pieces[right])
    return pieces, {piece: i for i, piece in enumerate(pieces)}, max(map(len, pieces))


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
class Tokenize:
    """record["text"], a str or several, to [context_length] int32; rng picks one, else the first.

    A str is always the text itself, never the name of a file. Raises `MediaError`.
    """

    context_length: int = CONTEXT

    def __post_init__(self):
        _check_length(self.context_length)

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Int[np.ndarray, "context_length"]:
        given = first_field(record, "text")
        with wrap_decode_errors(str(record.get("id", "this record"))):
            texts = [given] if isinstance(given, str) else given
            if not isinstance(texts, (list, tuple)) or not texts:
                raise ValueError(f"text is {_short(given)}: expected a str or a list of them")
            text = texts[0 if rng is None else int(rng.integers(len(texts)))]
            if not isinstance(text, str):
                raise ValueError(f"text holds {_short(text)}: expected a str")
            return tokenize(text, self.context_length)[0]


def _short(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__})"
