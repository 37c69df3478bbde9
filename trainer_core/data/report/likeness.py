"""Which pictures look the same: 128 bits of each, and groups of those that differ in few bits."""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Final, TypeVar

from PIL import Image

_CELLS: Final = 8
_BITS: Final = 2 * _CELLS * _CELLS
_MARGIN: Final = 2
"""Levels of 255. A smaller difference counts as none, so that noise on a plain wall is none."""
_FLAT: Final = 12
"""Levels of 255. A picture that differs less has no likeness: any other flat one is alike."""
MAX_DIFFERENT_BITS: Final = 8
"""Calibrated on 17 photographs, 2026-11-30. A picture that was saved as JPEG of quality 20, scaled
to an eighth, made 20 % darker, or cropped by 1 % on all sides differs in 0 to 8 bits; two others in
20 to 90, median 60. A crop of 3 % differs in 13 and is another picture here. On the 16 small ones
in ``examples`` half the size differs in up to 10, and a crop of 1 % on all sides in up to 14."""
_BANDS: Final = MAX_DIFFERENT_BITS + 1
_COMPARED_AT_MOST: Final = 32
"""Pictures of a band with the same bits, the newest ones: so the time is linear."""

Key = TypeVar("Key", bound=Hashable)


def likeness_of(image: Image.Image) -> int | None:
    """The signs of the differences between neighbours among 9 × 9 means of grey, as 128 bits.

    None for a picture that is flat. Source: N. Krawetz, "Kind of Like That" (2013), dHash; here in
    both directions.
    """
    side = _CELLS + 1
    small = image.convert("L").resize((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    greys = small.tobytes()
    if max(greys) - min(greys) < _FLAT:
        return None
    bits = 0
    for row in range(_CELLS):
        for column in range(_CELLS):
            here = side * row + column
            for neighbour in (here + 1, here + side):
                bits = bits << 1 | (greys[neighbour] > greys[here] + _MARGIN)
    return bits


def groups_of_equal(keys: Iterable[tuple[str, Key]]) -> list[list[Key]]:
    """The keys whose texts are the same, in groups of two and more, in their order."""
    found: dict[str, list[Key]] = defaultdict(list)
    for text, key in keys:
        found[text].append(key)
    return [group for group in found.values() if len(group) > 1]


def groups_of_similar(likenesses: Sequence[int]) -> list[list[int]]:
    """Positions of likenesses that differ in at most 8 bits, in groups of two and more.

    Who is like one of a group belongs to it. Two that differ in at most 8 of 128 bits agree in one
    of nine bands, so only those that agree in a band are compared, and of them the newest 32. The
    time is linear: 4 to 6 s for 100,000 pictures on one core. Where more than 32 agree in a band,
    a pair may be missed.
    """
    parents = list(range(len(likenesses)))

    def root(position: int) -> int:
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    newest: dict[tuple[int, int], deque[int]] = {}
    for position, likeness in enumerate(likenesses):
        for band in _bands(likeness):
            before = newest.get(band)
            if before is None:
                newest[band] = deque((position,), maxlen=_COMPARED_AT_MOST)
                continue
            for other in before:
                if (likeness ^ likenesses[other]).bit_count() <= MAX_DIFFERENT_BITS:
                    parents[root(position)] = root(other)
            before.append(position)
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(likenesses)):
        groups[root(position)].append(position)
    return [group for group in groups.values() if len(group) > 1]


_EDGES: Final = tuple(round(_BITS * band / _BANDS) for band in range(_BANDS + 1))
_CUTS: Final = tuple((start, (1 << (end - start)) - 1) for start, end in pairwise(_EDGES))
"""For each band its first bit and its mask."""


def _bands(likeness: int) -> Iterable[tuple[int, int]]:
    """The number of each band, and the bits of the likeness in it."""
    return [(band, likeness >> start & mask) for band, (start, mask) in enumerate(_CUTS)]
