"""The layout of checkpoint and result folders.

`manifest.json` is written last and names every other file with size and SHA-256. A run goes on
from its state: the tensors `param/<name>` and `ema/<name>`, and those of the optimizer
(`optim/<name>/<field>` and others, see `trainer_core.optim.state`). One process writes them to
`state.safetensors`. Where several processes hold parts of them, each writes its own parts to
`state-00000-of-00002.safetensors` and so on; see `checkpoint.state_files`. Together the files hold
the same tensors, whatever the number of processes. They contain no pickle.

A checkpoint of an adapter also has the files that a result of its step would have. No run needs
them to go on, so they are named apart: by `adapter_files` among the manifest's scalars.
"""

import re
from collections.abc import Collection
from typing import Final, Literal

from pydantic import JsonValue, TypeAdapter

from trainer_core.config.plan.frozen import Frozen, digest_of

MANIFEST_NAME: Final = "manifest.json"
STATE_NAME: Final = "state.safetensors"

_STATE_NAMES: Final = re.compile(r"state(-\d{5}-of-\d{5})?\.safetensors")

PARAMETER: Final = "param/"
EMA: Final = "ema/"

ADAPTER_FILES: Final = "adapter_files"
"""A scalar: name → size and SHA-256, as ``files`` has them. See ``adapter_files``."""

_SEAL: Final = "manifest_digest"
"""A scalar, and no field of its own, so that earlier versions read the manifest too."""


class FileFacts(Frozen):
    """One file of a folder."""

    size_bytes: int
    sha256: str


_FILES: Final = TypeAdapter[dict[str, FileFacts]](dict[str, FileFacts])


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
    """Those that a run needs to go on."""


def state_names(count: int) -> tuple[str, ...]:
    """The names of the state files of a checkpoint that has so many of them."""
    if count == 1:
        return (STATE_NAME,)
    return tuple(f"state-{number:05d}-of-{count:05d}.safetensors" for number in range(count))


def is_state_name(name: str) -> bool:
    """Whether a file of this name may be a state file."""
    return _STATE_NAMES.fullmatch(name) is not None


def are_state_names(names: Collection[str]) -> bool:
    """Whether these are the names of all state files of a checkpoint."""
    return bool(names) and set(names) == set(state_names(len(names)))


def adapter_files(manifest: CheckpointManifest) -> dict[str, FileFacts]:
    """The files beside the state that can be used by themselves; none in older checkpoints.

    A run goes on without them, so their user may move them away. They are among the scalars, so
    that earlier versions go on from the checkpoint, too. Raises ValueError for another form.
    """
    return _FILES.validate_python(manifest.scalars.get(ADAPTER_FILES, {}))


def sealed(manifest: CheckpointManifest) -> CheckpointManifest:
    """The manifest with a digest of itself among its scalars, as it is written."""
    scalars = {**manifest.scalars, _SEAL: digest_of(manifest.model_dump(mode="json"))}
    return manifest.model_copy(update={"scalars": scalars})


def opened(body: bytes) -> CheckpointManifest:
    """The inverse of ``sealed``, from what was written; raises ValueError for anything else.

    Older versions wrote no digest, so theirs may be missing.
    """
    manifest = CheckpointManifest.model_validate_json(body)
    scalars = {**manifest.scalars}
    seal = scalars.pop(_SEAL, None)
    manifest = manifest.model_copy(update={"scalars": scalars})
    if seal is not None and seal != digest_of(manifest.model_dump(mode="json")):
        raise ValueError("the manifest is not as it was written")
    return manifest


class ResultManifest(Frozen):
    """The manifest of a result."""

    version: Literal[1] = 1
    kind: Literal["result"] = "result"
    step: int
    files: dict[str, FileFacts]


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's folder; names sort by step up to 99,999,999."""
    return f"step-{step:08d}"
