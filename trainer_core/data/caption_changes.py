"""Captions after the options that change them: shuffled, with a prompt before them, filtered.

Source of the order and of each rule: SimpleTuner's documentation of data backends, sections
"caption_shuffle", "prepend_instance_prompt" and "Filtering captions".
"""

import functools
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from trainer_core.config.plan import Backend, CaptionShuffle, CaptionSplit
from trainer_core.config.simpletuner.caption_filters import CaptionFilter, parse_filter, replaced
from trainer_core.errors import BadCaptionError

MAX_CAPTION_CHARACTERS: Final = 20_000
_BETWEEN: Final[Mapping[CaptionSplit, tuple[str, str]]] = {
    "comma": (",", ", "),
    "space": (" ", " "),
    "period": (".", ". "),
}
"""What a caption is split at, and what its parts are joined with."""


def changed_captions(captions: Sequence[str], backend: Backend) -> tuple[str, ...]:
    """The captions of an image as they are encoded, each once and none blank.

    Each is shuffled first, so that the prompt before it stays in front; then filters see the whole.

    ``captions``: as they were read.

    Raises BadCaptionError where a replacement makes one too long.
    """
    found: list[str] = []
    for caption in captions:
        variants = [caption]
        if backend.caption_strategy != "instanceprompt":
            if backend.caption_shuffle is not None:
                variants = shuffled(caption, backend.caption_shuffle)
            if backend.prepend_instance_prompt:
                variants = [f"{backend.instance_prompt} {each}" for each in variants]
        found += variants
    stripped = (each.strip() for each in _filtered(found, backend.caption_filters))
    return tuple(dict.fromkeys(each for each in stripped if each))


def shuffled(caption: str, how: CaptionShuffle) -> list[str]:
    """The variants of a caption, each once.

    Variant i is a Fisher-Yates shuffle by Python's ``random.Random`` (Mersenne Twister, whose
    shuffle of a seed is the same in every version from 3.2), seeded by the sum of the seed, the
    last 32 bits of the caption's MD5, and i: so it depends on nothing else.
    """
    between, joint = _BETWEEN[how.split_on]
    parts = [part.strip() for part in caption.split(between) if part.strip()]
    fixed, moving = parts[: how.position_start], parts[how.position_start :]
    if len(moving) < 2:
        return [caption]
    digest = hashlib.md5(caption.encode(), usedforsecurity=False).digest()
    start = how.seed + int.from_bytes(digest[-4:], "big")
    variants = [caption] if how.include_original else []
    for number in range(how.count):
        order = list(moving)
        random.Random(start + number).shuffle(order)  # noqa: S311 - no secret
        variants.append(joint.join(fixed + order))
    return list(dict.fromkeys(variants))


def _filtered(captions: Sequence[str], filters: tuple[str, ...]) -> Iterator[str]:
    entries = _parsed(filters)
    for caption in captions:
        text = caption
        for entry in entries:
            text = replaced(entry, text)
            if len(text) > MAX_CAPTION_CHARACTERS:  # so that replacements cannot fill the memory
                raise BadCaptionError(
                    f"a caption has {len(text)} characters after {entry.term[:60]} of "
                    f"caption_filter_list, more than {MAX_CAPTION_CHARACTERS}"
                )
        yield text


@functools.lru_cache(maxsize=16)
def _parsed(filters: tuple[str, ...]) -> tuple[CaptionFilter, ...]:
    return tuple(parse_filter(each) for each in filters)
