"""Checkpoints of several processes: each writes its part, any number reads what it needs."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import load_file

from tests.support import damage
from tests.support.parted_checkpoints import on_ranks, write_parted
from trainer_core.checkpoint.folders import committed_checkpoints, facts_of, stored_checkpoints
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.layout import opened, sealed
from trainer_core.checkpoint.read import Checkpoint, read_checkpoint
from trainer_core.checkpoint.state_files import Place
from trainer_core.config.plan.frozen import digest_of
from trainer_core.errors import CheckpointCorruptError, CheckpointError, InjectedFaultError

IDENTITY: dict[str, JsonValue] = {"seed": 42}
RUN = CheckpointIdentity(
    identity_digest=digest_of(IDENTITY),
    identity=IDENTITY,
    data_digest="2" * 64,
    base_digest="3" * 64,
    matmul="auto",
)
WHOLE = {
    "param/a": torch.arange(35.0).reshape(5, 7),
    "param/b": torch.arange(8, dtype=torch.bfloat16),
    "optim/a/exp_avg": torch.arange(35.0).reshape(5, 7) / 3,
    "optim/a/step": torch.tensor(4.0),
}
CUTS = {"param/a": (0, 6, 20, 35), "param/b": (0, 8, 8, 8), "optim/a/exp_avg": (0, 6, 6, 35)}
"""Rank r has the elements from its number to the next; some ranks have none of a tensor."""
FILES = [f"state-0000{number}-of-00003.safetensors" for number in range(3)]


def of_ranks(
    cuts: Mapping[str, tuple[int, ...]],
) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, Place]]]:
    """Tensors and parts of each of three ranks; what is not cut is rank 0's."""
    tensors: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    parts: list[dict[str, Place]] = [{}, {}, {}]
    for name, value in WHOLE.items():
        if name not in cuts:
            tensors[0][name] = value
            continue
        for rank in range(3):
            start, end = cuts[name][rank : rank + 2]
            if start < end:
                tensors[rank][name] = value.view(-1)[start:end]
                parts[rank][name] = Place(start=start, shape=tuple(value.shape))
    return tensors, parts


def write(folder: Path, cuts: Mapping[str, tuple[int, ...]] = CUTS, step: int = 4) -> Path:
    tensors, parts = of_ranks(cuts)
    return write_parted(folder, RUN, tensors, parts, step)


def assert_whole(checkpoint: Checkpoint) -> None:
    found = {f"param/{name}": value for name, value in checkpoint.parameters.items()}
    found |= checkpoint.optimizer_state
    assert found.keys() == WHOLE.keys()
    for name, value in WHOLE.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype is value.dtype


def test_each_rank_writes_its_own_part_and_any_range_is_read_back(tmp_path: Path) -> None:
    folder = write(tmp_path)

    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", *FILES]
    own = [load_file(folder / name) for name in FILES]
    assert [each["param/a"].tolist() for each in own if "param/a" in each] == [
        list(range(6)),
        list(range(6, 20)),
        list(range(20, 35)),
    ]
    manifest = opened((folder / "manifest.json").read_bytes())
    assert manifest.files == {name: facts_of(folder / name) for name in FILES}
    checkpoint = read_checkpoint(folder, RUN)
    assert_whole(checkpoint)
    for start, count in ((0, 35), (4, 5), (6, 0), (34, 1), (2, 30)):
        found = torch.empty(count)
        checkpoint.parameters.read_into({"a": (start, found)}, found.device)
        assert found.tolist() == list(range(start, start + count))
    for wanted, words in (("c", "lacks param/c"), ("b", "b is torch.bfloat16 in the checkpoint")):
        with pytest.raises(CheckpointError, match=words):
            checkpoint.parameters.read_into({wanted: (0, found)}, found.device)
    damage.truncate(folder / FILES[2])
    with pytest.raises(CheckpointError, match=f"{FILES[2]} was cut off while a was read"):
        checkpoint.parameters.read_into({"a": (34, found[:1])}, found.device)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


@pytest.mark.parametrize("kind", damage.OF_A_FILE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_part_is_named_on_every_rank(tmp_path: Path, kind: str, name: str) -> None:
    """Each of two ranks reads other files for their digests."""
    folder = write(tmp_path)
    damage.OF_A_FILE[kind](folder / name)

    def refused(ranks: object) -> str:
        with pytest.raises(CheckpointCorruptError) as refusal:
            read_checkpoint(folder, RUN, ranks=ranks)  # type: ignore[arg-type]
        return refusal.value.message

    first, second = on_ranks(2, refused)

    assert first == second
    assert f"step-00000004/{name} " in first
    # Without reading the files: what is missing or short is known by the sizes.
    known = [why for _, why in stored_checkpoints(tmp_path).damaged]
    assert known == ([] if kind == "flipped" else [first])


def test_a_part_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    folder, other = write(tmp_path), tmp_path / "other"
    tensors, parts = of_ranks(CUTS)
    tensors = [{name: value + 1 for name, value in each.items()} for each in tensors]
    shutil.copy(write_parted(other, RUN, tensors, parts) / FILES[1], folder / FILES[1])

    with pytest.raises(CheckpointCorruptError, match=f"{FILES[1]} is damaged: its SHA-256"):
        read_checkpoint(folder, RUN)


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        ((0, 6, 34, 34), r"the elements 34 to 35 of param/a are in none of its files \(state-0000"),
        ((1, 6, 34, 35), r"the elements 0 to 1 of param/a are in none"),
    ],
)
def test_missing_elements_are_refused(tmp_path: Path, cut: tuple[int, ...], words: str) -> None:
    folder = write(tmp_path, {**CUTS, "param/a": cut})

    with pytest.raises(CheckpointCorruptError, match=words):
        read_checkpoint(folder, RUN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Place(start=5, shape=(5, 7)), f"{FILES[1]}: param/a is in {FILES[0]} already, in part"),
        (Place(start=6, shape=(7, 5)), r"param/a is F32 \[7, 5\], and F32 \[5, 7\] in"),
        (Place(start=7, shape=(5, 7)), "the place of param/a contradicts its tensor"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, change: Place, words: str) -> None:
    cuts = {**CUTS, "param/a": (0, 6, 35, 35)}
    tensors, parts = of_ranks(cuts)
    parts[1]["param/a"] = change
    folder = write_parted(tmp_path, RUN, tensors, parts)

    with pytest.raises(CheckpointCorruptError, match=words):
        read_checkpoint(folder, RUN)


def test_a_manifest_without_one_of_the_files_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    body = (folder / "manifest.json").read_bytes()
    manifest = opened(body)
    files = {name: facts for name, facts in manifest.files.items() if name != FILES[1]}
    changed = sealed(manifest.model_copy(update={"files": files}))
    (folder / "manifest.json").write_text(json.dumps(changed.model_dump(mode="json")))

    with pytest.raises(CheckpointCorruptError, match="nor one of each process"):
        read_checkpoint(folder, RUN)


@pytest.mark.parametrize(
    "fault",
    [
        "checkpoint.before_state",
        "checkpoint.in_state",
        "checkpoint.before_manifest",
        "checkpoint.before_rename",
    ],
)
def test_a_failure_of_one_rank_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before = write(tmp_path, step=3)
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{fault}=raise")
    monkeypatch.setenv("FAULT_ONCE", str(tmp_path / "once"))  # only the first rank that comes

    with pytest.raises(InjectedFaultError):
        write(tmp_path)

    assert committed_checkpoints(tmp_path) == [before]
    assert_whole(read_checkpoint(before, RUN))
    monkeypatch.delenv("FAULT_AT")
    assert_whole(read_checkpoint(write(tmp_path), RUN))
