"""Placeholders in prompts and captions."""

import re
from typing import Final

_TOKEN: Final = re.compile(r"(?<!\w)<[A-Za-z][A-Za-z0-9 _-]{0,63}>")


def unfilled_tokens(text: str) -> tuple[str, ...]:
    """The placeholders ``<token>`` in a prompt or caption, each once.

    Published prompt libraries use them for the name of the subject. Text encoders read them as they
    are.
    """
    return tuple(dict.fromkeys(_TOKEN.findall(text)))
