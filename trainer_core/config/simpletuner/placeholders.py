"""Places in a text that somebody meant to fill in."""

import re
from typing import Final

_TOKEN: Final = re.compile(r"(?<!\w)<[A-Za-z][A-Za-z0-9 _-]{0,63}>")


def unfilled_tokens(text: str) -> tuple[str, ...]:
    """What looks like ``<token>`` in a prompt or caption, each once; text encoders read it as is.

    Published prompt libraries come with such marks for the name of the subject.
    """
    return tuple(dict.fromkeys(_TOKEN.findall(text)))
