"""Make the adapter file of a checkpoint from its state. Imports no torch.

Only small matrices are scaled, the others are copied. The file equals, byte for byte, the one that
training would have written at that step.
"""

import math
from pathlib import Path

from trainer_core.checkpoint.layout import STATE_NAME
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.errors import CheckpointError
from trainer_core.export.origin import Origin
from trainer_core.export.parameters_in_state import (
    NOT_A_STATE,
    parameters_in_state,
    why_not_a_state,
)
from trainer_core.export.write_adapter import write_adapter


def write_checkpoint_adapter(
    checkpoint: Path, adapter: LokrAdapter | LoraAdapter, origin: Origin, folder: Path
) -> int:
    """Write the adapter of a checkpoint's folder into ``folder``; the number of its parameters.

    Args:
        checkpoint: the folder; its files are not compared with its manifest here.
        adapter: of the run that wrote it.
        origin: its ``weights`` are the ones written, and they have to be in the checkpoint.
        folder: exists already.

    Raises:
        CheckpointError: the state is missing, or not the one of this adapter.
        OSError: ``folder`` cannot be written.
    """
    try:
        with (checkpoint / STATE_NAME).open("rb") as state:
            parameters = parameters_in_state({STATE_NAME: state}, origin.weights)
            write_adapter(folder, adapter, parameters, origin)
    except FileNotFoundError as error:
        raise CheckpointError(f"{checkpoint.name}/{STATE_NAME} is missing") from error
    except NOT_A_STATE as error:
        why = why_not_a_state(error)
        message = f"{checkpoint.name}/{STATE_NAME} is not the state of this plan: {why}"
        raise CheckpointError(message) from error
    return sum(math.prod(shape) for shape in parameters.shapes.values())
