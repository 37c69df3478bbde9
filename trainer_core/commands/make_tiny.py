"""`python -m trainer_core make-tiny`: writes a random base model that trains in seconds."""

import sys
from pathlib import Path

from trainer_core.base_models.describe import holds_base_model, read_base_model
from trainer_core.errors import BaseModelError


def make(folder: Path, shape: str) -> int:
    """Write the model of that shape, ``tiny`` or ``wide``, and print its digest.

    Returns 0, or 1 with a line on stderr where it cannot be written there. Torch is imported only
    where there is something to write.
    """
    try:
        if not holds_base_model(folder):
            from trainer_core.hidream.testing.tiny import make_tiny, make_wide  # noqa: PLC0415 - slow

            (make_wide if shape == "wide" else make_tiny)(folder)
    except BaseModelError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - the caller shows the last line
        return 1
    print(read_base_model(folder).digest)  # noqa: T201 - the command's output
    return 0
