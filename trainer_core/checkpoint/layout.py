"""The layout of checkpoint and result folders.

`manifest.json` is written last and names every other file with size and SHA-256. A checkpoint has
one more file, `state.safetensors`. It holds the tensors `param/<name>` and `ema/<name>`, and those
of the optimizer (`optim/<name>/<field>` and others, see `trainer_core.optim.state`). The layout
does not depend on the number of processes. It contains no pickle.
"""

from typing import Final, Literal

from pydantic import JsonValue

from trainer_core.config.plan.frozen import Frozen

MANIFEST_NAME: Final = "manifest.json"
STATE_NAME: Final = "state.safetensors"

PARAMETER: Final = "param/"
EMA: Final = "ema/"


class FileFacts(Frozen):
    """One file of a folder."""

    size_bytes: int
    sha256: str


class CheckpointManifest(Frozen):
    """The manifest of a checkpoint."""

    version: Literal[1] = 1
    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    """Optimizer steps done."""
    cursor: int
    """Micro-batches used so far; also the number of the next one."""
    identity_digest: str
    identity: dict[str, JsonValue] | None = None
    """``Plan.guarded_identity``, so that a refusal can name fields. None in older checkpoints."""
    data_digest: str
    base_digest: str
    scalars: dict[str, JsonValue]
    files: dict[str, FileFacts]


class ResultManifest(Frozen):
    """The manifest of a result."""

    version: Literal[1] = 1
    kind: Literal["result"] = "result"
    step: int
    files: dict[str, FileFacts]


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's folder; names sort by step up to 99,999,999."""
    return f"step-{step:08d}"
