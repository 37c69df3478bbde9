"""The digest that names a cache entry."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from trainer_core.config.plan.frozen import digest_of


def entry_digest(kind: str, encoder: JsonValue, content: Mapping[str, Any]) -> str:
    """64 hex digits, of what the entry is made from: equal content has equal digests.

    Args:
        kind: as ``index.EntryKind``.
        encoder: as ``index.Encoding.encoder``.
        content: an image with its crop or a caption, as JSON; its ``path`` does not count.
    """
    facts = {name: value for name, value in content.items() if name != "path"}
    return digest_of({"kind": kind, "encoder": encoder, "content": facts})
