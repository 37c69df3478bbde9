"""What the service accepts: requests, and the ids of what they may name and change."""

import copy
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any, Final

Json = dict[str, Any]

RUN_REQUEST: Final[Json] = json.loads(os.environ["FUZZ_RUN_REQUEST"])
"""A request for a run that the service accepts."""
LARGE_UPLOAD: Final[Json] = json.loads(os.environ["FUZZ_LARGE_UPLOAD"])
"""A request for the parts of a file that the service accepts."""
SPARE: Final[Json] = json.loads(os.environ["FUZZ_SPARE"])
"""What the requests may change, and what they must not: ``command.Spare``."""
DEADLINE: Final = (datetime.now(UTC) + timedelta(days=30)).isoformat()
"""One that the service accepts."""
WEBHOOK_URL: Final = "https://hooks.example.com:8443/reverie"


def accepted() -> Json:
    others = {"prompt_library": None, "secrets": {}, "deadline": DEADLINE}
    return {**copy.deepcopy(RUN_REQUEST), **others}
