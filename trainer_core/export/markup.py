"""A user's text inside Markdown, YAML and Python: it can add no markup and end no string."""

import json


def quoted(text: str) -> str:
    """A double-quoted string on one line that Python and YAML read alike, without backticks."""
    body = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() and c != "`" else f"\\U{ord(c):08x}" for c in body)


def inline_code(text: str) -> str:
    """Inline code of Markdown, also in a table: one line, no backticks, no cell border."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return f"`{plain}`"
