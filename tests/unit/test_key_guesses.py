"""Unknown keys are counted by client, in bounded memory; valid keys always pass."""

import pytest

from services.api.key_guesses import KeyGuesses

KEY = "rv_0123456789abcdef"
OTHER = "rv_fedcba9876543210"


@pytest.fixture
def guesses() -> KeyGuesses:
    return KeyGuesses(now_s=lambda: 0.0)


def guess(guesses: KeyGuesses, client: str, times: int = 60) -> None:
    for _ in range(times):
        guesses.note_unknown(client, OTHER)


def test_a_client_has_to_wait_after_sixty_unknown_keys(guesses: KeyGuesses) -> None:
    guess(guesses, "192.0.2.1", 59)
    before = guesses.wait_s("192.0.2.1", KEY)
    guess(guesses, "192.0.2.1", 1)

    assert before == 0
    assert guesses.wait_s("192.0.2.1", KEY) == 1
    assert guesses.wait_s("192.0.2.2", KEY) == 0


def test_more_unknown_keys_mean_a_longer_wait(guesses: KeyGuesses) -> None:
    guess(guesses, "192.0.2.1", 120)  # at the same time: all were asked before the first answer
    assert guesses.wait_s("192.0.2.1", KEY) == 61


def test_a_key_may_be_tried_each_second() -> None:
    now_s = 0.0
    guesses = KeyGuesses(now_s=lambda: now_s)
    guess(guesses, "192.0.2.1", 61)
    waits = []
    for now_s in (1.0, 1.9, 2.0):  # noqa: B007 - the clock reads it
        waits.append(guesses.wait_s("192.0.2.1", KEY))
    assert waits == [1, 1, 0]


def test_a_valid_key_passes_from_a_client_that_guesses(guesses: KeyGuesses) -> None:
    guesses.note_valid(KEY, "ten_1")
    guess(guesses, "192.0.2.1")
    assert guesses.wait_s("192.0.2.1", KEY) == 0
    assert guesses.wait_s("192.0.2.1", OTHER) == 1


def test_a_revoked_key_is_no_longer_valid(guesses: KeyGuesses) -> None:
    guesses.note_valid(KEY, "ten_1")
    guess(guesses, "192.0.2.1")
    guesses.note_unknown("192.0.2.1", KEY)
    assert guesses.wait_s("192.0.2.1", KEY) >= 1


def test_the_oldest_client_is_forgotten(guesses: KeyGuesses) -> None:
    guess(guesses, "192.0.2.1")
    guess(guesses, "192.0.2.2")
    for number in range(9_999):
        guesses.note_unknown(f"10.0.{number // 256}.{number % 256}", OTHER)
    assert guesses.wait_s("192.0.2.1", KEY) == 0
    assert guesses.wait_s("192.0.2.2", KEY) == 1
