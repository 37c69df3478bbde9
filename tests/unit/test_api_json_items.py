"""A body that is read piece by piece means what it means when it is read at once."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api import json_items
from services.api.errors import InvalidJsonError
from services.api.json_body import parse_body
from services.api.json_items import ItemCount, read_items
from services.domain.errors import InvalidRequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
BODY = st.dictionaries(st.sampled_from(["name", "files", "x"]), JSON)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every value is cut somewhere."""
    monkeypatch.setattr(json_items, "_CHUNK_BYTES", 7)


def at_once(body: bytes) -> Any:
    return json.loads(body)


def piece_by_piece(body: bytes) -> Any:
    items: list[Any] = []

    def on_item(position: int, item: Any) -> None:
        assert position == len(items)
        items.append(item)

    value = read_items(io.BytesIO(body), {"files": on_item})
    if isinstance(value, dict) and isinstance(value.get("files"), ItemCount):
        assert value["files"].number == len(items)
        return {**value, "files": items}
    return value


def refusal_of(read: Callable[[bytes], Any], body: bytes) -> str | None:
    """What is wrong with the JSON. What is wrong with its values is checked elsewhere."""
    try:
        read(body)
    except InvalidJsonError as error:
        return str(error)
    except InvalidRequestError:
        pass
    return None


@given(body=BODY | JSON, indent=st.sampled_from([None, 1]), is_ascii=st.booleans())
def test_any_value_is_read_as_it_is_at_once(body: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(body, indent=indent, ensure_ascii=is_ascii)
    encoded = text.encode("utf-8", "surrogatepass")
    try:
        encoded.decode()
    except UnicodeDecodeError:  # refused before
        return
    assert piece_by_piece(encoded) == at_once(encoded)


@given(body=BODY, data=st.data())
def test_any_damage_is_refused_in_the_same_words(body: Any, data: st.DataObject) -> None:
    text = json.dumps(body, indent=data.draw(st.sampled_from([None, 1])))
    at = data.draw(st.integers(0, len(text)))
    instead = data.draw(
        st.sampled_from(["", ",", '"', "]", "}", "{", "[", ":", "\n", "1", "\\", "é"])
    )
    damaged = (text[:at] + instead + text[at + 1 :]).encode()
    refused = refusal_of(parse_body, damaged)
    assert refusal_of(piece_by_piece, damaged) == refused
    if refused is None:
        assert piece_by_piece(damaged) == at_once(damaged)


def test_a_value_that_is_too_long_is_refused_with_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_items, "MAX_VALUE_CHARACTERS", 100)
    body = b'{"files": [1,\n "' + b"x" * 1000 + b'"]}'
    with pytest.raises(InvalidJsonError, match="line 2, column 2 is longer than 100 characters"):
        piece_by_piece(body)
