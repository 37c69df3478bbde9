"""Characters that nobody sees, and those that command a terminal: which they are, and escapes.

Names must not have them; other texts are shown with escapes in their place.
"""

import re
from typing import Final

CONTROLS: Final = r"\u0000-\u001f\u007f-\u009f"
HIDDEN: Final = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb" + "\U000e0000-\U000e007f"
)
"""Characters that show nothing, and marks that turn the direction of text: with one, a name can
look like another one."""
VISIBLE_PATTERN: Final = f"^[^{CONTROLS}{HIDDEN}]*$"
"""A regular expression (ECMA 262) for what ``is_visible`` takes."""

_UNSEEN: Final = re.compile(f"[{CONTROLS}{HIDDEN}\ud800-\udfff]")


def is_visible(text: str) -> bool:
    """Whether a text has no control character, no hidden one, and no half of a surrogate pair."""
    return _UNSEEN.search(text) is None


def escaped(text: str, keep: str = "") -> str:
    """The text with an escape such as ``\\x1b`` for each character that is not visible.

    Args:
        keep: characters that stay as they are.
    """
    return _UNSEEN.sub(lambda found: _escape(found[0], keep), text)


def _escape(character: str, keep: str) -> str:
    return character if character in keep else character.encode("unicode_escape").decode()
