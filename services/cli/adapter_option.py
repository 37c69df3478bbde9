"""The option --adapter of commands that use one: a file, a checkpoint, or a run's output folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.cli.byte_progress import byte_progress
from services.cli.export import WeightsName

ADAPTER_HELP: Final = (
    "A LoKr or LoRA file, such as a result's pytorch_lora_weights.safetensors; or a checkpoint, or "
    "the output folder of a run with checkpoints, as for `reverie export`."
)


@contextlib.contextmanager
def adapter_file(adapter: Path, weights: WeightsName | None) -> Iterator[Path]:
    """The adapter file; that of a checkpoint is made here, and deleted when the block ends."""
    from trainer_core.local.export import adapter_at
    from trainer_core.paths import expanded

    with contextlib.ExitStack() as stack:
        with byte_progress() as reporter:
            found = adapter_at(expanded(adapter).absolute(), weights, reporter)
            file = stack.enter_context(found)
        yield file
