"""Keyed draws: seeds of random draws, and permutations that are computed entry by entry."""

import hashlib
from typing import Final

_ROUNDS: Final = 6


def draw_seed(seed: int, purpose: str, i: int, sample: int) -> int:
    """The 64-bit seed of one random draw, for a purpose, micro-batch ``i`` and sample."""
    body = f"{seed}\0{purpose}\0{i}\0{sample}".encode()
    return int.from_bytes(hashlib.sha256(body).digest()[:8])


def key_of(*parts: str | int) -> bytes:
    """A key for ``permuted``; another one for other parts. No part has a NUL character."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def permuted(entry: int, count: int, key: bytes) -> int:
    """The image of ``entry`` under a keyed permutation of 0…count−1; see ``Permutation``."""
    return Permutation(count, key).image_of(entry)


class Permutation:
    """A keyed permutation of 0…count−1, computed entry by entry.

    A Feistel network over the next even power of two, applied again until the value is below
    ``count``. It needs no table, and on average at most four evaluations. Source: Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), cycle walking and generalised Feistel.
    """

    def __init__(self, count: int, key: bytes) -> None:
        self._count = count
        self._half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
        keyed = hashlib.blake2b(key=key, digest_size=8)
        self._rounds = []
        for number in range(_ROUNDS):
            mix = keyed.copy()
            mix.update(number.to_bytes(1))
            self._rounds.append(mix)

    def image_of(self, entry: int) -> int:
        half_bits, mask = self._half_bits, (1 << self._half_bits) - 1
        while True:
            left, right = entry >> half_bits, entry & mask
            for round_ in self._rounds:
                mix = round_.copy()
                mix.update(right.to_bytes(8))
                left, right = right, left ^ int.from_bytes(mix.digest()) & mask
            entry = left << half_bits | right
            if entry < self._count:
                return entry
