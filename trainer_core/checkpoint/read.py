"""Open a checkpoint to resume from it, after the checks of ``checkpoint.identity``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer_core.checkpoint.identity import CheckpointIdentity, check_checkpoint
from trainer_core.checkpoint.layout import EMA, PARAMETER, CheckpointManifest
from trainer_core.checkpoint.ranks import ALONE, CheckpointRanks
from trainer_core.checkpoint.state_files import NotAStateError, StateFiles, StateTensor, state_in
from trainer_core.disk import reading
from trainer_core.errors import BaseModelError, CheckpointCorruptError, CheckpointError
from trainer_core.weights.headers import DTYPES, StoredTensor
from trainer_core.weights.transfer import Read, read_tensors


class StoredTensors(Mapping[str, torch.Tensor]):
    """Tensors of a checkpoint by name. Each is read when it is asked for, to the CPU."""

    def __init__(self, folder: Path, state: StateFiles, prefix: str, names: list[str]) -> None:
        """``names``: without ``prefix``."""
        self._folder = folder
        self._state = state
        self._prefix = prefix
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Raises CheckpointError where it cannot be read."""
        facts = self.facts(name)
        values = torch.empty(facts.count, dtype=DTYPES[facts.dtype])
        try:
            with reading(self._folder):
                into = values.view(torch.uint8).numpy().data
                self._state.read_elements(self._prefix + name, 0, into)
        except (NotAStateError, OSError) as error:
            raise CheckpointError(f"{self._folder.name} is not readable: {error}") from error
        return values.view(facts.shape)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def facts(self, name: str) -> StateTensor:
        """Type and shape, without reading it; raises KeyError."""
        if name not in self._names:
            raise KeyError(name)
        return self._state.tensors[self._prefix + name]

    def read_into(
        self, wanted: Mapping[str, tuple[int, torch.Tensor]], device: torch.device
    ) -> None:
        """Fill tensors with elements of stored ones; several threads read at once.

        Args:
            wanted: by the name of a stored tensor: the first element that is read, counted in the
                flat tensor, and the memory that is filled, of one dimension.
            device: of the memory.

        Raises CheckpointError where a tensor is missing, of another type, or cannot be read.
        """
        reads = []
        for name, (start, into) in wanted.items():
            if name not in self._names:
                raise CheckpointError(f"the checkpoint lacks {self._prefix}{name}")
            facts = self.facts(name)
            if DTYPES[facts.dtype] is not into.dtype:
                raise CheckpointError(
                    f"{name} is {DTYPES[facts.dtype]} in the checkpoint, and {into.dtype} here"
                )
            reads += list(self._reads(name, start, into))
        try:
            read_tensors(reads, device)
        except (BaseModelError, OSError) as error:
            raise CheckpointError(f"{self._folder.name} is not readable: {error}") from error

    def _reads(self, name: str, start: int, into: torch.Tensor) -> Iterator[Read]:
        """One for each file that has some of the elements."""
        for each in self.facts(name).ranges(start, len(into)):
            stored = StoredTensor(
                name=name,
                file=self._folder / each.file,
                dtype=into.dtype,
                shape=(each.count,),
                offset_bytes=each.offset_bytes,
                size_bytes=each.count * into.itemsize,
            )
            yield Read(stored=stored, into=into[each.start : each.start + each.count])


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint that was checked; its tensors are read when they are asked for."""

    manifest: CheckpointManifest
    parameters: StoredTensors
    optimizer_state: StoredTensors
    """By the keys of ``optim.state``."""
    ema: StoredTensors
    """By the parameters' names; empty where the plan has no EMA."""


def read_checkpoint(
    folder: Path,
    run: CheckpointIdentity,
    *,
    last_step: int | None = None,
    ranks: CheckpointRanks = ALONE,
) -> Checkpoint:
    """Check and open the checkpoint in ``folder``.

    ``ranks``: they share the reading of the files for their digests, and agree on the outcome.
    Raises CheckpointError as ``check_checkpoint`` does, and where it has no readable state.
    """
    damage = ""
    try:
        manifest = check_checkpoint(
            folder, run, last_step=last_step, share=ranks.rank, shares=ranks.count
        )
    except CheckpointCorruptError as error:
        damage = error.message
    if damage := ranks.first_text(damage):
        raise CheckpointCorruptError(damage)
    try:
        state = state_in(folder, sorted(manifest.files))
    except (NotAStateError, OSError) as error:
        raise CheckpointCorruptError(f"{folder.name} is damaged: {error}") from error

    def below(prefix: str) -> StoredTensors:
        names = [name.removeprefix(prefix) for name in state.tensors if name.startswith(prefix)]
        return StoredTensors(folder, state, prefix, names)

    others = [name for name in state.tensors if not name.startswith((PARAMETER, EMA))]
    return Checkpoint(
        manifest=manifest,
        parameters=below(PARAMETER),
        optimizer_state=StoredTensors(folder, state, "", sorted(others)),
        ema=below(EMA),
    )
