"""`python -m trainer_core inspect`: pictures of strangers, decoded where that may go wrong."""

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer_core.data.images import inspect_image
from trainer_core.errors import BadImageError
from trainer_core.process.requests import Request, answer_requests, open_replies


def serve(*, reply_fd: int, memory_bytes: int) -> int:
    """Answer until stdin ends; the whole process may map at most ``memory_bytes``."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with open_replies(reply_fd) as replies:
        answer_requests(sys.stdin.buffer, replies, inspect_pictures)
    return 0


def inspect_pictures(request: Request) -> Mapping[str, Any]:
    """Request `{"inputs": {path: local path}}` → `{"facts": {path: {…}}, "errors": […]}`.

    Every picture is looked at; facts are ``width_px`` and ``height_px`` as displayed, and each bad
    one is an entry of ``errors`` with its path, code and message.
    """
    facts: dict[str, dict[str, int]] = {}
    errors: list[dict[str, str]] = []
    for name, local in request["inputs"].items():
        try:
            found = inspect_image(Path(local), name=name)
        except BadImageError as error:
            errors.append({"path": name, "code": error.code, "message": error.message})
        else:
            facts[name] = {"width_px": found.width_px, "height_px": found.height_px}
    return {"facts": facts, "errors": errors}
