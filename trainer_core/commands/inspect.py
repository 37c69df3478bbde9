"""`python -m trainer_core inspect`: decodes untrusted images in a process that may crash."""

import resource
import sys
from pathlib import Path

from trainer_core.data.images import inspect_image
from trainer_core.errors import BadImageError
from trainer_core.process.requests import (
    BadPicture,
    InspectReply,
    InspectRequest,
    PictureFacts,
    answer_requests,
    open_replies,
)


def serve(*, reply_fd: int, memory_bytes: int) -> int:
    """Answer until stdin ends. ``memory_bytes`` limits the address space of the process."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with open_replies(reply_fd) as replies:
        answer_requests(sys.stdin.buffer, replies, InspectRequest, inspect_pictures)
    return 0


def inspect_pictures(request: InspectRequest) -> InspectReply:
    """Decode every image, and report bad ones beside the facts of the others."""
    facts: dict[str, PictureFacts] = {}
    errors: list[BadPicture] = []
    for name, local in request.inputs.items():
        try:
            # What it is used for is not known yet.
            found = inspect_image(Path(local), name=name, is_mask=True)
        except BadImageError as error:
            errors.append(BadPicture(path=name, code=error.code, message=error.message))
        else:
            assert found.lit is not None, name
            facts[name] = PictureFacts(
                width_px=found.width_px, height_px=found.height_px, lit=found.lit
            )
    return InspectReply(facts=facts, errors=tuple(errors))
