"""Checkpoints that ranks under DeepSpeed load and write again, each rank its own process."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.support.zero_ranks import run_ranks, tiny_network
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.read import Checkpoint, read_checkpoint
from trainer_core.checkpoint.write import CheckpointFacts, write_checkpoint, write_part
from trainer_core.config.plan import Plan
from trainer_core.engine.saving import ranks_of
from trainer_core.engine.step import Backend

RUN = CheckpointIdentity(
    identity_digest="1" * 64,
    identity={},
    data_digest="2" * 64,
    base_digest="3" * 64,
    matmul="auto",
)
STEP = 4


class Resume(NamedTuple):
    """One checkpoint to load, and where it is written again."""

    stage: int
    source: Path
    """The folder of a checkpoint."""
    target: Path
    """A folder for checkpoints."""


def resume_on_ranks(
    tiny: Path,
    plan: Plan,
    ranks: int,
    resumes: Sequence[Resume],
    folder: Path,
    *,
    is_bf16: bool = False,
) -> None:
    """Load each checkpoint on so many ranks and write it again; ``folder`` is for their files.

    The processes also check that the model has the loaded weights. ``is_bf16``: it has them in
    bf16, beside fp32 ones that DeepSpeed updates.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "tiny": str(tiny),
        "plan": plan.model_dump(mode="json"),
        "is_bf16": is_bf16,
        "resumes": [[each.stage, str(each.source), str(each.target)] for each in resumes],
    }
    (folder / "resumes.json").write_text(json.dumps(asked))
    run_ranks(__name__, [folder / "resumes.json"], ranks, folder)


def write_again(backend: Backend, target: Path) -> None:
    """Write a checkpoint of what the backend holds, as a run does."""
    trained, ranks = backend.tensors(), ranks_of(backend)
    if backend.rank > 0:
        if trained.is_sharded:
            write_part(target, STEP, trained, ranks)
        return
    facts = CheckpointFacts(step=STEP, cursor=2 * STEP, run=RUN, scalars={})
    write_checkpoint(target, facts, trained, ranks=ranks)


def _check_model(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, checkpoint.parameters[name].to(parameter.dtype)), name


def main(argv: Sequence[str]) -> int:
    """Load and write as one rank: ``JOB``."""
    from trainer_core.engine.zero_open import open_zero

    asked: Mapping[str, Any] = json.loads(Path(argv[0]).read_text())
    weights = torch.bfloat16 if asked["is_bf16"] else torch.float32
    backend = None
    for stage, source, target in asked["resumes"]:
        plan = Plan.model_validate(
            {**asked["plan"], "operation": {**asked["plan"]["operation"], "zero_stage": stage}}
        )
        network = tiny_network(Path(asked["tiny"]), plan, weights)
        backend = open_zero(network, plan, image_px=32**2)
        checkpoint = read_checkpoint(Path(source), RUN, ranks=ranks_of(backend))
        backend.load(checkpoint)
        write_again(backend, Path(target))
        with backend.gathered():
            _check_model(network.transformer, checkpoint)
    assert backend is not None
    backend.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
