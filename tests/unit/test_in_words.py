"""Texts of others in messages: one line, of a bounded length, that commands no terminal."""

import pytest

from trainer_core.in_words import printable


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
