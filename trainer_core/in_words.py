"""Speeds, durations, counts and strange texts as people read them."""

from typing import Final

_ERROR_CHARACTERS: Final = 300


def speed(steps_per_s: float) -> str:
    """``2.50 steps/s``, or ``3.20 s/step`` below half a step a second."""
    if steps_per_s < 0.5:
        return f"{1 / steps_per_s:.2f} s/step"
    return f"{steps_per_s:.2f} steps/s"


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 picture`` or ``1,200 pictures``; ``many``: where it is not ``one`` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share_having(number: int, total: int, what: str) -> str:
    """``1 of 3 pictures has`` or ``2 of 3 pictures have``."""
    return f"{number:,} of {counted(total, what)} {'has' if 1 in (number, total) else 'have'}"


def printable(text: str, most_characters: int) -> str:
    """A text that others wrote, for a message: one line that commands no terminal, its end cut off.

    Each character that is not printable is a ``?``, also a line break.
    """
    shown = text if len(text) <= most_characters else f"{text[: most_characters - 1]}…"
    return "".join(each if each.isprintable() else "?" for each in shown)


def error_in_words(error: BaseException) -> str:
    """``ValueError: what it says`` in one line of at most 300 characters, for a warning."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split()), _ERROR_CHARACTERS)
