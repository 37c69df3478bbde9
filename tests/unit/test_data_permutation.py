"""Permutations and seeds are functions of keys, the same on every machine."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_core.data.permutation import draw_seed, permuted


@settings(deadline=None)
@given(st.integers(1, 3000), st.binary(min_size=1, max_size=32))
def test_a_permutation_is_one(count: int, key: bytes) -> None:
    assert sorted(permuted(entry, count, key) for entry in range(count)) == list(range(count))


def test_a_permutation_is_a_feistel_network_of_keyed_hashes() -> None:
    """In checkpoints is how far a run is in its order: these numbers may never change."""

    def by_hand(entry: int, half_bits: int) -> int:
        left, right = divmod(entry, 1 << half_bits)
        for number in range(6):
            body = number.to_bytes(1, "big") + right.to_bytes(8, "big")
            mixed = hashlib.blake2b(body, key=b"key", digest_size=8).digest()
            left, right = right, left ^ int.from_bytes(mixed, "big") % (1 << half_bits)
        return (left << half_bits) + right

    def walked(entry: int) -> int:
        while (entry := by_hand(entry, 4)) >= 200:
            pass
        return entry

    assert [permuted(n, 200, b"key") for n in range(200)] == [walked(n) for n in range(200)]
    assert [permuted(n, 200, b"key") for n in range(5)] == [152, 33, 91, 128, 15]


def test_draws_depend_on_everything() -> None:
    draws = {
        draw_seed(1, "noise", 0, 0),
        draw_seed(2, "noise", 0, 0),
        draw_seed(1, "sigma", 0, 0),
        draw_seed(1, "noise", 1, 0),
        draw_seed(1, "noise", 0, 1),
    }

    assert len(draws) == 5
    assert all(0 <= draw < 2**64 for draw in draws)
