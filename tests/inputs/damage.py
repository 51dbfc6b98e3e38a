"""Files damaged at random, some with their checksums made good again."""

import re
import zlib

import numpy as np


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three things changed; half the time with the checksums of PNG or Ogg made good again."""
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if made:
            _change(made, rng)
    return bytes(repaired(made) if rng.random() < 0.5 else made)


INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _change(made: bytearray, rng: np.random.Generator) -> None:
    end = min(len(made), 128) if rng.random() < 0.4 else len(made)  # often in the header
    at, run = int(rng.integers(end)), int(rng.integers(1, 64))
    other = int(rng.integers(len(made)))
    what = rng.integers(10)
    if what <= 2:
        for place in at + rng.integers(0, run, int(rng.integers(1, 9))):
            made[min(place, len(made) - 1)] ^= 1 << int(rng.integers(8))
    elif what <= 4:  # a length, a number, an offset
        order = "big" if rng.random() < 0.5 else "little"
        size = int(rng.choice([1, 2, 4, 4, 8]))
        number = INTERESTING[rng.integers(len(INTERESTING))] if rng.random() < 0.6 else len(made)
        made[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, order)
    elif what == 5:
        made[at : at + run] = bytes([(0, 0xFF, 0x20, 0x39)[rng.integers(4)]]) * run
    elif what == 6:
        made[at : at + run] = rng.bytes(run)
    elif what == 7:
        made[at : at + (run if rng.random() < 0.5 else 0)] = made[other : other + run * 4]
    elif what == 8:
        del made[at : at + run]
    else:
        del made[other:]


def repaired(made: bytearray) -> bytearray:
    if made.startswith(b"\x89PNG"):
        at = 8
        while at + 12 <= len(made):
            end = at + 8 + int.from_bytes(made[at : at + 4], "big")
            made[end : end + 4] = zlib.crc32(made[at + 4 : end]).to_bytes(4, "big")
            at = end + 4
    elif made.startswith(b"OggS"):
        starts = [match.start() for match in re.finditer(b"OggS", made)] + [len(made)]
        for start, end in zip(starts, starts[1:]):
            if end - start >= 27:
                made[start + 22 : start + 26] = bytes(4)
                made[start + 22 : start + 26] = _ogg_crc(made[start:end]).to_bytes(4, "little")
    return made


def _ogg_crc(page: bytes | bytearray) -> int:
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _OGG[crc >> 24 ^ byte]
    return crc


def _ogg_table() -> list[int]:
    table = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = (value << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if value >> 31 else 0)
        table.append(value)
    return table


_OGG = _ogg_table()
