"""Quote a user's text for Markdown, YAML and Python, so that it cannot add markup or code."""

import json


def quoted(text: str) -> str:
    """A double-quoted string on one line, valid in Python and YAML, without backticks."""
    body = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() and c != "`" else f"\\U{ord(c):08x}" for c in body)


def inline_code(text: str) -> str:
    """Inline code for Markdown, also in tables: one line without backticks and ``|``."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return f"`{plain}`"
