"""Configuration files are read as people write them, and errors name the file and the line."""

from pathlib import Path

import pytest

from trainer_core.documents import MAX_DOCUMENT_BYTES, load_document, parse_document
from trainer_core.errors import DocumentError


def test_comments_trailing_commas_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{\n  // how long\n  "max_train_steps": 10, /* few */\n}\n')

    assert load_document(path) == {"max_train_steps": 10}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"a": 1,\n "a": 2}',
            'config.json: "a" is given twice in one object (on line 1, 2)',
        ),
        ('{\n "a": 1,\n // b\n "a": 2,}', "line 2, 4"),
        ('{\n "a": 1,, "b": 2}', "config.json, line 2"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "1e999"),
        (f'{{"a": -{"9" * 5000}}}', "a number of 5001 characters is too long"),
        (f'{{"a": 0x{"f" * 5000},}}', "a number of 5002 characters"),
        (f'{{"a": {"9" * 350}}}', f"{'9' * 40}… is not a number"),
        (f'{{"a": {"9" * 350}.5,}}', f"{'9' * 40}… is not a number"),
        ("[" * 5000, "nested too deep"),
        (" " * (MAX_DOCUMENT_BYTES + 1), "bytes"),
        ("//" + " " * 300_000 + "\n{}", "262144"),
        ("", "config.json"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_document(text, name="config.json")

    assert said in caught.value.message
    assert caught.value.message.startswith("config.json")
    assert caught.value.category == "user"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"nowhere\.json"):
        load_document(tmp_path / "nowhere.json")
