"""Texts of others in messages: one line, of a bounded length, that commands no terminal."""

import pytest

from trainer_core.in_words import error_in_words, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("köln ✓.jpg", "köln ✓.jpg"),
        ("a\x1b[2J\nb\u202ec\ud800", "a?[2J?b?c?"),
        ("x" * 20, "x" * 20),
        ("x" * 21, "x" * 19 + "…"),
        ("", ""),
    ],
)
def test_a_strange_text_is_one_printable_line(text: str, shown: str) -> None:
    assert printable(text, 20) == shown


def test_an_error_is_told_in_one_line_of_a_bounded_length() -> None:
    assert error_in_words(ValueError("line one\n\tline two")) == "ValueError: line one line two"
    assert error_in_words(KeyError()) == "KeyError:"
    assert len(error_in_words(RuntimeError("x" * 100_000))) == 300
