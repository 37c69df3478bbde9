"""The pattern that the OpenAPI document has for paths of files, against the words of the check."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from services.api.datasets.file_kinds import SIZES_BYTES, media_of, path_fault, path_pattern

PIECES = st.sampled_from(
    ["a", "Z", "C:", ":", "/", "\\", ".", "..", " ", "\0", "\n", "\x9f", "\u202e", "\u2066", "é"]
)
NAMES = st.lists(PIECES | st.text(max_size=2), max_size=8).map("".join)
SUFFIXES = st.sampled_from([".jpg", ".JPEG", ".png", ".webP", ".txt", ".zip", ".jpg/", ""])
PATTERNS = {media: re.compile(path_pattern(media)) for media in SIZES_BYTES}


@given(name=NAMES, suffix=SUFFIXES)
@example(name=".", suffix=".jpg")
@example(name="", suffix=".jpg")
@example(name="a/", suffix=".jpg")
@example(name="a/..", suffix=".jpg")
@example(name="...", suffix="/a.jpg")
@example(name="C:", suffix=".jpg")
@example(name="a.jpg\n", suffix="")
def test_the_pattern_takes_what_the_check_takes(name: str, suffix: str) -> None:
    path = name + suffix
    wrong = path_fault(path)
    is_fine = wrong is None or wrong.endswith("(NFC)")  # of which a pattern knows nothing
    for media, pattern in PATTERNS.items():
        is_taken = pattern.search(path) is not None and not path.endswith("\n")
        assert is_taken == (is_fine and media_of(path) == media), (path, wrong)
