"""Local folders of pictures, and the cache that runs share."""

import fcntl
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.support import damage
from tests.support.jobs import EXAMPLES, demo_plan
from tests.unit.config_examples import TINY_CONFIG
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import Plan, plain_backend
from trainer_core.data.entry_files import damage_of, entry_name, read_entry_file
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.errors import BadCaptionError, BadImageError
from trainer_core.hidream.parts import ModelParts
from trainer_core.local.cache import fill_cache
from trainer_core.local.data import LocalData, MissingDataError, find_data_folders, scan
from trainer_core.process.control import StopRequestedError
from trainer_core.progress import SilentReporter


class Counting(SilentReporter):
    """Remembers how far each stage came, and stops a stage after so many units."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.done: dict[str, int] = {}
        self.said: list[str] = []
        self._stop_after = stop_after

    def log(self, text: str) -> None:
        self.said.append(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        self.done[stage] = done

    def check_control(self) -> None:
        if self._stop_after is not None and self.done.get("caching", 0) >= self._stop_after:
            raise StopRequestedError("a stop was asked for")


@pytest.fixture
def plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=64)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two photographs to train on, one of them a floor below, and one held out."""
    photos, held_out = tmp_path / "photos", tmp_path / "held_out"
    for folder, names in ((photos, ("grass", "retina")), (held_out, ("cat",))):
        folder.mkdir()
        source = EXAMPLES / "photos" / ("train" if folder == photos else "held_out")
        for name in names:
            for suffix in (".jpg", ".txt"):
                shutil.copy(source / f"{name}{suffix}", folder)
    (photos / "below").mkdir()
    for suffix in (".jpg", ".txt"):
        (photos / f"retina{suffix}").rename(photos / "below" / f"retina{suffix}")
    return {"photos": photos, "held-out": held_out}


def look(plan: Plan, folders: Mapping[str, Path], tmp_path: Path) -> LocalData:
    return scan(plan, folders, tmp_path / "cache" / "pictures.json", SilentReporter())


def test_pictures_are_found_below_their_folders_with_their_captions(
    plan: Plan, folders: dict[str, Path], tmp_path: Path
) -> None:
    (folders["photos"] / ".hidden").mkdir()
    shutil.copy(folders["photos"] / "grass.jpg", folders["photos"] / ".hidden")
    (folders["photos"] / "notes.pdf").write_bytes(b"no picture")

    data = look(plan, folders, tmp_path)

    assert sorted((item.backend, item.path) for item in data.items) == [
        ("held-out", "cat.jpg"),
        ("photos", "below/retina.jpg"),
        ("photos", "grass.jpg"),
    ]
    assert all(item.captions for item in data.items)
    assert {data.images[item.sha256].name for item in data.items} == {
        "cat.jpg",
        "grass.jpg",
        "retina.jpg",
    }


def test_a_picture_is_looked_at_again_only_where_it_changed(
    plan: Plan, folders: dict[str, Path], tmp_path: Path
) -> None:
    look(plan, folders, tmp_path)
    notes = tmp_path / "cache" / "pictures.json"
    grass = str(folders["photos"] / "grass.jpg")
    noted = json.loads(notes.read_text())
    noted[grass][3] = 12345  # a width that only the notes know
    notes.write_text(json.dumps(noted))

    again = {item.path: item for item in look(plan, folders, tmp_path).items}
    Image.new("RGB", (640, 480)).save(grass)
    changed = {item.path: item for item in look(plan, folders, tmp_path).items}

    assert again["grass.jpg"].width_px == 12345
    assert (changed["grass.jpg"].width_px, changed["grass.jpg"].height_px) == (640, 480)
    assert changed["grass.jpg"].sha256 != again["grass.jpg"].sha256


def test_a_black_mask_leaves_its_picture_out_also_from_the_notes(
    plan: Plan, folders: dict[str, Path], tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    (masks / "below").mkdir(parents=True)
    Image.new("L", (64, 64), 9).save(masks / "grass.png")
    Image.new("L", (64, 64)).save(masks / "below/retina.png")
    photos, held_out = plan.identity.backends
    painted = plain_backend("masks", role="mask", caption_strategy="filename")
    backends = (
        photos.model_copy(update={"masks": "masks"}),
        held_out,
        painted.model_copy(update={"mask_kind": "mask"}),
    )
    identity = plan.identity.model_copy(update={"backends": backends})
    masked, folders = plan.model_copy(update={"identity": identity}), {**folders, "masks": masks}
    notes = tmp_path / "cache" / "pictures.json"

    def used() -> list[str]:
        data = look(masked, folders, tmp_path)
        assert any("below/retina.png: the mask is black everywhere" in note for note in data.notes)
        index = build_index(masked, data.items, TINY_CONFIG)
        return [sample.path for sample in index.samples if sample.mask is not None]

    look(plan, folders, tmp_path)
    noted = json.loads(notes.read_text())
    # As an earlier version noted it.
    notes.write_text(json.dumps({name: facts[:6] for name, facts in noted.items()}))

    assert used() == ["grass.jpg"]
    noted = json.loads(notes.read_text())
    assert noted[str(masks / "grass.png")][6] == "red"
    noted[str(masks / "grass.png")][6] = "nothing"  # which only the notes know
    notes.write_text(json.dumps(noted))
    with pytest.raises(BadImageError, match=r"grass\.png: the mask is black everywhere"):
        used()


@pytest.mark.parametrize("notes", ["", "[]", '{"x": 1}', "{"])
def test_notes_that_cannot_be_read_are_none(
    plan: Plan, folders: dict[str, Path], tmp_path: Path, notes: str
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pictures.json").write_text(notes)
    assert len(look(plan, folders, tmp_path).items) == 3


def test_all_broken_files_are_named_at_once(
    plan: Plan, folders: dict[str, Path], tmp_path: Path
) -> None:
    (folders["photos"] / "truncated.jpg").write_bytes(
        (folders["photos"] / "grass.jpg").read_bytes()[:2000]
    )
    (folders["held-out"] / "cat.txt").write_bytes(b"\xff")
    for name in ("nothing.png", "nobody.png", "none.png"):
        (folders["photos"] / name).touch()
    with pytest.raises((BadImageError, BadCaptionError)) as caught:
        look(plan, folders, tmp_path)
    for name in ("truncated.jpg", "nothing.png", "nobody.png", "none.png", "cat.txt"):
        assert name in caught.value.message
    assert f"photos: 4 files in {folders['photos']} cannot be used:" in caught.value.message


def test_up_to_half_of_the_files_may_be_broken(
    plan: Plan, folders: dict[str, Path], tmp_path: Path
) -> None:
    sound = look(plan, folders, tmp_path)
    for name in ("nothing.png", "nobody.png"):
        (folders["photos"] / name).touch()

    data = look(plan, folders, tmp_path)

    assert data.items == sound.items
    assert data.notes == (
        "photos: 2 of 4 images cannot be used and are left out.",
        "photos: nobody.png: the file is empty; copy it again or take it away",
        "photos: nothing.png: the file is empty; copy it again or take it away",
    )


def test_own_output_and_files_that_are_not_read_are_told(
    plan: Plan, folders: dict[str, Path], tmp_path: Path
) -> None:
    photos = folders["photos"]
    sample = photos / "out" / "result" / "samples" / "0.png"
    sample.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(sample)
    (photos / "camera.cr2").touch()

    data = scan(plan, folders, tmp_path / "p.json", SilentReporter(), own=(photos / "out",))

    assert len(data.items) == 3
    assert data.notes == (
        "photos: The output of runs is left out: out.",
        "photos: 1 file is not read: 1 camera raw file (camera.cr2). Save pictures as JPEG or PNG.",
    )


def test_every_missing_folder_is_named_with_its_backend(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    dirs = {"photos": "here", "held-out": "elsewhere/there"}
    plan = plan.model_copy(
        update={"operation": plan.operation.model_copy(update={"data_dirs": dirs})}
    )
    with pytest.raises(MissingDataError) as caught:
        find_data_folders(plan, (tmp_path / "a", tmp_path))
    assert "held-out: instance_data_dir names elsewhere/there" in caught.value.message
    assert str(tmp_path / "a" / "elsewhere" / "there") in caught.value.message
    assert "photos" not in caught.value.message


def index_of(plan: Plan, data: LocalData, tiny: Path) -> DataIndex:
    return build_index(plan, data.items, read_base_model(tiny).transformer_config)


def test_a_cache_is_filled_once_repaired_and_stopped_without_harm(
    plan: Plan, folders: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    data = look(plan, folders, tmp_path)
    index = index_of(plan, data, tiny_folder)
    cache = tmp_path / "cache"
    parts = ModelParts(read_base_model(tiny_folder), torch.device("cpu"))

    def fill(reporter: Counting) -> int:
        return fill_cache(cache, index, parts, data.images, reporter)

    with pytest.raises(StopRequestedError):
        fill(Counting(stop_after=2))
    before = {path.name: path.stat().st_mtime_ns for path in cache.glob("*.safetensors")}
    left_behind = cache / f".{index.entries[0].digest}.safetensors.99.tmp"
    left_behind.write_bytes(b"half an entry")
    encoded = fill(Counting())

    assert len(before) == 2
    assert encoded == len(index.entries) - len(before)
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in cache.glob("*.safe*")}.items()
    assert not left_behind.exists()
    assert fill(Counting(stop_after=0)) == 0

    entry = cache / entry_name(index.entries[0].digest)
    whole = read_entry_file(entry)
    cut, differs = "is cut off", "its SHA-256 is not the one it was written with"
    for how, words in ((damage.truncate, cut), (damage.flip_last, differs), (damage.remove, None)):
        how(entry)
        reporter = Counting()
        assert fill(reporter) == 1
        assert read_entry_file(entry).header.entries == whole.header.entries
        assert read_entry_file(entry).header.metadata["sha256"] == whole.header.metadata["sha256"]
        assert damage_of(entry) is None
        said = [] if words is None else [f"cache: {entry.name} is damaged", words, "encoded again"]
        assert len(reporter.said) == bool(words)
        assert all(word in line for line in reporter.said for word in said)

    entry.touch()  # a copy, with the same content
    assert fill(Counting(stop_after=1)) == 0
    assert fill(Counting(stop_after=0)) == 0


def test_a_cache_that_another_run_fills_is_waited_for(
    plan: Plan, folders: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    data = look(plan, folders, tmp_path)
    index = index_of(plan, data, tiny_folder)
    said: list[str] = []

    class Impatient(SilentReporter):
        def log(self, text: str) -> None:
            said.append(text)

        def check_control(self) -> None:
            raise StopRequestedError("a stop was asked for")

    with (tmp_path / "cache" / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        parts = ModelParts(read_base_model(tiny_folder), torch.device("cpu"))
        with pytest.raises(StopRequestedError):
            fill_cache(tmp_path / "cache", index, parts, data.images, Impatient())
    assert "another run" in said[0]
