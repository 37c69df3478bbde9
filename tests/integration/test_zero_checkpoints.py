"""A checkpoint of any ZeRO stage on any number of ranks is loaded bit for bit by every other."""

from pathlib import Path

import pytest
import torch

from tests.integration.test_zero_steps import plan_of
from tests.support.zero_ranks import stored_tensors, tiny_network
from tests.support.zero_resumes import RUN, STEP, Resume, resume_on_ranks, write_again
from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.layout import checkpoint_name, state_names
from trainer_core.checkpoint.read import read_checkpoint
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.engine.step import SingleProcess
from trainer_core.hidream.loading import load_transformer

STAGES, RANKS = (1, 2, 3), (1, 2, 4)
LAST = checkpoint_name(STEP)


@pytest.fixture(scope="module")
def tensors(tiny_folder: Path) -> dict[str, torch.Tensor]:
    """Of a checkpoint, by their names in it: random numbers, so that each place has its own."""
    draw = torch.Generator().manual_seed(7)
    model = load_transformer(tiny_folder, torch.float32)
    made: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        for key in (f"param/{name}", f"ema/{name}", *_moments(name)):
            made[key] = torch.randn(parameter.shape, generator=draw)
        made[f"optim/{name}/step"] = torch.tensor(float(STEP))
    return made


def _moments(name: str) -> tuple[str, str]:
    return f"optim/{name}/exp_avg", f"optim/{name}/exp_avg_sq"


@pytest.fixture(scope="module")
def alone(tensors: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as one process without DeepSpeed writes it."""
    return write_alone(tensors, tmp_path_factory.mktemp("alone"))


def write_alone(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    trained = TrainedTensors(
        parameters=below("param/"),
        ema=below("ema/"),
        optimizer_state={k: v for k, v in tensors.items() if k.startswith("optim")},
    )
    facts = CheckpointFacts(step=STEP, cursor=2 * STEP, run=RUN, scalars={})
    return write_checkpoint(folder, facts, trained).path


def check(checkpoint: Path, ranks: int, expected: dict[str, torch.Tensor]) -> None:
    names = state_names(ranks)
    assert set(read_manifest(checkpoint).files) == set(names)
    found = stored_tensors(checkpoint, names)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    sizes_bytes = [(checkpoint / name).stat().st_size for name in names]
    assert max(sizes_bytes) < 1.1 * sum(sizes_bytes) / ranks + 1e6  # each rank has its share


def test_nine_pairs_of_stage_and_ranks_load_each_others_checkpoints(
    tiny_folder: Path, tensors: dict[str, torch.Tensor], alone: Path, tmp_path: Path
) -> None:
    """Each stage on 1, 2 and 4 ranks writes once what another one reads, and reads once."""

    def place(stage: int, ranks: int) -> Path:
        return tmp_path / f"{stage}-{ranks}"

    def resume(ranks: int, source_ranks: int) -> None:
        """Each stage loads the checkpoint of the stage before."""
        resumes = [
            Resume(stage, place((stage + 1) % 3 + 1, source_ranks) / LAST, place(stage, ranks))
            for stage in STAGES
        ]
        plan = plan_of(tiny_folder, 1, "none")
        resume_on_ranks(tiny_folder, plan, ranks, resumes, tmp_path / f"on-{ranks}-{source_ranks}")
        for stage in STAGES:
            check(place(stage, ranks) / LAST, ranks, tensors)

    plan = plan_of(tiny_folder, 1, "none")
    first = [Resume(stage, alone, place(stage, 4)) for stage in STAGES]
    resume_on_ranks(tiny_folder, plan, 4, first, tmp_path / "on-4")
    for source_ranks, ranks in ((4, 2), (2, 1), (1, 4)):
        resume(ranks, source_ranks)

    load_alone(tiny_folder, place(3, 4) / LAST, tmp_path / "back", "adamw")
    check(tmp_path / "back" / LAST, 1, tensors)


def load_alone(tiny: Path, source: Path, target: Path, optimizer: str) -> None:
    """Load a checkpoint in one process without DeepSpeed, and write it again."""
    plan = plan_of(tiny, None, "none", optimizer)
    backend = SingleProcess(tiny_network(tiny, plan), plan)
    backend.load(read_checkpoint(source, RUN))
    write_again(backend, target)


@pytest.mark.deep
@pytest.mark.parametrize("ranks", RANKS)
def test_every_pair_of_stage_and_ranks_loads_the_others_checkpoint(
    tiny_folder: Path,
    tensors: dict[str, torch.Tensor],
    alone: Path,
    tmp_path: Path,
    ranks: int,
) -> None:
    plan = plan_of(tiny_folder, 1, "none")
    sources = []
    for number in RANKS:
        made = [Resume(stage, alone, tmp_path / f"{stage}-{number}") for stage in STAGES]
        resume_on_ranks(tiny_folder, plan, number, made, tmp_path / f"made-{number}")
        sources += [each.target / LAST for each in made]

    resumes = [
        Resume(stage, source, tmp_path / f"from-{number}-{stage}")
        for number, source in enumerate(sources)
        for stage in STAGES
    ]
    resume_on_ranks(tiny_folder, plan, ranks, resumes, tmp_path / "resumed")

    for each in resumes:
        check(each.target / LAST, ranks, tensors)


@pytest.mark.deep
def test_lion_has_the_same_state_with_and_without_deepspeed(
    tiny_folder: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    others = ("/exp_avg_sq", "/step")
    lions = {name: value for name, value in tensors.items() if not name.endswith(others)}
    source = write_alone(lions, tmp_path / "alone")
    resumes = [Resume(stage, source, tmp_path / f"stage-{stage}") for stage in STAGES]

    plan = plan_of(tiny_folder, 1, "none", "optimi-lion")
    resume_on_ranks(tiny_folder, plan, 2, resumes, tmp_path / "on-2")

    for each in resumes:
        check(each.target / LAST, 2, lions)
    load_alone(tiny_folder, tmp_path / "stage-2" / LAST, tmp_path / "back", "optimi-lion")
    check(tmp_path / "back" / LAST, 1, lions)


@pytest.mark.deep
def test_a_model_in_bf16_gets_the_loaded_weights(
    tiny_folder: Path, tensors: dict[str, torch.Tensor], alone: Path, tmp_path: Path
) -> None:
    """As on a GPU: a checkpoint has the fp32 weights that DeepSpeed keeps beside them."""
    resumes = [Resume(stage, alone, tmp_path / f"stage-{stage}") for stage in STAGES]
    plan = plan_of(tiny_folder, 1, "none")

    resume_on_ranks(tiny_folder, plan, 2, resumes, tmp_path / "on-2", is_bf16=True)

    for each in resumes:
        check(each.target / LAST, 2, tensors)


@pytest.mark.deep
def test_offloaded_state_with_one_count_of_updates_is_loaded_bit_for_bit(
    tiny_folder: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    counted = {name: value for name, value in tensors.items() if not name.endswith("/step")}
    counted["optim_group_tensor/step"] = torch.tensor(STEP, dtype=torch.int32)
    source = write_alone(counted, tmp_path / "alone")
    plan = plan_of(tiny_folder, 1, "none", "optimi-adamw", "cpu")
    resumes = [Resume(stage, source, tmp_path / f"to-{stage}") for stage in STAGES]

    resume_on_ranks(tiny_folder, plan, 2, resumes, tmp_path / "on-2")

    for each in resumes:
        check(each.target / LAST, 2, counted)
