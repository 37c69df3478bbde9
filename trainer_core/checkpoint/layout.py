"""What a checkpoint and a result are on disk: a folder that its manifest closes.

`manifest.json` names every other file with size and SHA-256. A checkpoint has one more file,
`state.safetensors`, with tensors `param/<name>`, `ema/<name>` and the optimizer's own
(`optim/<name>/<field>` and the numbers beside it, see `trainer_core.optim.state`). The layout does
not depend on how many processes trained, and holds no pickle.
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
    """Everything about a checkpoint but its tensors."""

    version: Literal[1] = 1
    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    """Optimizer steps done."""
    cursor: int
    """Micro-batches used: the next one to draw."""
    identity_digest: str
    identity: dict[str, JsonValue] | None = None
    """What the digest is of, so that a refusal can name fields; None in older checkpoints."""
    data_digest: str
    base_digest: str
    scalars: dict[str, JsonValue]
    files: dict[str, FileFacts]


class ResultManifest(Frozen):
    """What a finished run leaves."""

    version: Literal[1] = 1
    kind: Literal["result"] = "result"
    step: int
    files: dict[str, FileFacts]


def folder_name(step: int) -> str:
    """The name of a checkpoint's folder; sorts by step."""
    return f"step-{step:08d}"
