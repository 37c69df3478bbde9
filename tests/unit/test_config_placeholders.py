"""Marks that somebody meant to replace."""

import pytest

from trainer_core.config.simpletuner.placeholders import unfilled_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a photo of <token> and <token>", ("<token>",)),
        ("<Subject name> beside <other_one>", ("<Subject name>", "<other_one>")),
        ("I <3 you, a<b and b>c, < token >, <>, <1>", ()),
        ("", ()),
    ],
)
def test_marks_are_found_once_each(text: str, tokens: tuple[str, ...]) -> None:
    assert unfilled_tokens(text) == tokens
