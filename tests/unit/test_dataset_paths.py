"""Names of files that mean one file on every system; and the pattern that the document has."""

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.api.datasets.file_kinds import SIZES_BYTES, path_pattern
from services.domain.file_names import files_as_folders, folded, key_of, path_fault, shown
from services.domain.media import media_of

_PARTS = ["a", "Z", "C:", ":", "/", "\\", ".", "..", " ", "\0", "\n", "\x9f", "\u202e", "\u2066"]
_ODD = ["é", "e\u0301", "\u200b", "\ufeff", "\U000e0041", "con", "AUX", "nul.", "Com1", "lpt²", "0"]
PIECES = st.sampled_from(_PARTS + _ODD)
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
@example(name="con", suffix=".jpg")
@example(name="a/CON /b", suffix=".jpg")
@example(name="CONs", suffix=".jpg")
@example(name="a b", suffix=".jpg")
def test_the_pattern_takes_what_the_check_takes(name: str, suffix: str) -> None:
    path = name + suffix
    wrong = path_fault(path)
    is_fine = wrong is None or wrong.endswith("(NFC)")  # of which a pattern knows nothing
    for media, pattern in PATTERNS.items():
        is_taken = pattern.search(path) is not None and not path.endswith("\n")
        assert is_taken == (is_fine and media_of(path) == media), (path, wrong)


@pytest.mark.parametrize(
    "path",
    [
        *("a.jpg", "Ä/ü (1).png", "..jpg", "a..b.jpg", "a/.hidden.jpg", "12:30?.jpg"),
        *("console.txt", "com10.jpg", "l.con", "null.txt"),
        *("日本.webp", "❤️.jpg", "कि.jpg"),
    ],
)
def test_ordinary_names_are_fine(path: str) -> None:
    assert path_fault(path) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/a.jpg", "relative"),
        ("C:a.jpg", "drive"),
        ("a\\b.jpg", "backslash"),
        ("a/../b.jpg", r"part \.\."),
        ("a//b.jpg", "empty part"),
        ("a\0.jpg", "control"),
        ("a\x7f.jpg", "control"),
        ("a\x85.jpg", "control"),
        ("gpj.\u202eexe.jpg", "invisible"),  # looks like exe.jpg backwards
        ("a\u2069.jpg", "invisible"),
        ("a\u200e.jpg", "invisible"),
        ("a\u200b.jpg", "invisible"),
        ("a\u200d.jpg", "invisible"),
        ("a\u2060.jpg", "invisible"),
        ("\ufeffa.jpg", "invisible"),
        ("a\u00ad.jpg", "invisible"),
        ("a\u3164.jpg", "invisible"),
        ("a\U000e0041.jpg", "invisible"),
        ("a\u2028b.jpg", "invisible"),
        ("CON.jpg", "CON.jpg, which is a device"),
        ("NUL.txt", "device"),
        ("a/nul/b.txt", "device"),
        ("COM1.tar.jpg", "device"),
        ("lpt9 .jpg", "device"),
        ("com².jpg", "device"),
        ("conin$.jpg", "device"),
        ("a./b.jpg", "ends in a dot or a space"),
        ("a /b.jpg", "ends in a dot or a space"),
        ("e\u0301.jpg", "NFC"),
        ("a\udce9.jpg", "UTF-8"),
        ("a" * 509 + ".jpg", "longer than 512"),
    ],
)
def test_a_name_that_means_something_else_elsewhere_is_refused(path: str, words: str) -> None:
    wrong = path_fault(path)
    assert wrong is not None
    assert re.search(words, wrong), wrong


@given(path=st.text(min_size=1, max_size=20) | NAMES)
def test_what_is_taken_stays_one_file_of_the_same_look(path: str) -> None:
    if path_fault(path) is not None:
        return
    assert unicodedata.normalize("NFC", path) == path
    turning = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    assert not turning & {unicodedata.bidirectional(c) for c in path}
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(c) for c in path}
    for part in path.split("/"):
        assert part not in ("", ".", "..")
        assert part.rstrip(". ") == part
    assert shown(path) == path


@pytest.mark.parametrize(
    ("one", "other"), [("A.jpg", "a.JPG"), ("é.jpg", "e\u0301.jpg"), ("straße.jpg", "STRASSE.jpg")]
)
def test_names_that_differ_in_case_or_form_are_one(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@given(
    paths=st.sets(st.lists(st.sampled_from("abA!."), min_size=1, max_size=5).map("".join)),
    folders=st.lists(st.sampled_from("aB.")),
)
def test_every_file_that_is_a_folder_is_found(paths: set[str], folders: list[str]) -> None:
    keys = {key_of(path) for path in paths}
    keys |= {b"/".join([key_of(folder), key]) for folder in folders for key in keys}
    found = list(files_as_folders(keys))
    inner = {(a, b) for a in keys for b in keys if b.startswith(a + b"/")}
    assert {file for file, _ in found} == {file for file, _ in inner}
    assert set(found) <= inner


def test_what_cannot_be_seen_is_escaped_in_messages() -> None:
    assert shown("a\u202e\0é\udce9.jpg") == "a\\u202e\\x00é\\udce9.jpg"
    assert len(shown("x" * 1000)) == 101
