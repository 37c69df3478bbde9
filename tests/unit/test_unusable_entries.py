"""Crops whose mask is black, and images that cannot be encoded, are left out; the rest is used."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.standing_parts import StandingParts
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Plan
from trainer_core.config.plan.problems import PlanError
from trainer_core.data.encode import encode_shard
from trainer_core.data.index import DataIndex, FileItem, Picture
from trainer_core.data.indexing import build_index
from trainer_core.data.shard_files import read_places
from trainer_core.data.shards import ShardSpec, shards_of
from trainer_core.errors import DecoderMissingError
from trainer_core.local.cache import fill_cache, fill_masks
from trainer_core.local.unusable import UnusableImagesError, note_unusable, noted_unusable
from trainer_core.progress import SilentReporter

BLACK = "the mask is black on the whole crop of its image"


def plan_of(**options: Any) -> Plan:
    cut = {"id": "a", "caption_strategy": "filename", "crop": True, "resolution": 64} | options
    masks = {"id": "m", "dataset_type": "conditioning", "conditioning_type": "mask"}
    return import_small(
        {"train_batch_size": 1}, backends=[cut | {"conditioning_data": "m"}, masks]
    ).plan


def item(backend: str, path: Path) -> FileItem:
    with Image.open(path) as image:
        width, height = image.size
    return FileItem(
        backend=backend,
        path=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        width_px=width,
        height_px=height,
        captions=() if backend == "m" else ("a cat",),
    )


class CountingReporter(SilentReporter):
    def __init__(self) -> None:
        self.shown: list[tuple[str, int, int]] = []

    def progress(self, stage: str, done: int, total: int) -> None:
        self.shown.append((stage, done, total))


def painted(folder: Path, lit: dict[str, tuple[int, int] | None]) -> dict[str, Path]:
    """Images of 192 × 64 and masks that are white from one column to another; SHA-256 → file.

    Two folders, ``a`` and ``m``, have files of the same names.
    """
    for backend in ("a", "m"):
        (folder / backend).mkdir(exist_ok=True)
    files = {}
    for number, (name, columns) in enumerate(lit.items()):
        Image.new("RGB", (192, 64), (number, 9, 9)).save(folder / "a" / name)
        mask = Image.new("L", (192, 64), 0)
        if columns is not None:
            mask.paste(255, (columns[0], 0, columns[1], 64))
        mask.putpixel((191, 63), number)  # another content for each
        mask.save(folder / "m" / name)
        for backend in ("a", "m"):
            path = folder / backend / name
            files[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    return files


def items_in(folder: Path) -> list[FileItem]:
    return [
        item(backend, path) for backend in "am" for path in sorted((folder / backend).iterdir())
    ]


def used(index: DataIndex) -> set[str]:
    return {sample.path for sample in index.samples}


def test_a_mask_that_is_black_within_the_crop_leaves_its_image_out(tmp_path: Path) -> None:
    plan = plan_of(crop_style="center")  # the columns 64 to 128
    files = painted(tmp_path, {"a.png": (70, 80), "b.png": (0, 60), "c.png": (100, 192)})
    items, cache = items_in(tmp_path), tmp_path / "cache"
    index = build_index(plan, items, TINY_CONFIG)

    with pytest.raises(UnusableImagesError, match=rf"b\.png: {BLACK}") as raised:
        fill_masks(cache, index, files, SilentReporter())

    assert len(raised.value.reasons) == 1
    rest = build_index(plan, items, TINY_CONFIG, unusable=raised.value.reasons)
    assert used(rest) == {"a.png", "c.png"}
    assert rest.warnings[:2] == (
        "a: 1 of 3 images cannot be used and is left out.",
        f"a: b.png: {BLACK}",
    )
    without = [each for each in items if each.path != "b.png"]
    assert rest.digest() == build_index(plan, without, TINY_CONFIG).digest()
    fill_masks(cache, rest, files, SilentReporter())
    assert len(list(cache.glob("*.safetensors"))) == 2
    assert (
        fill_cache(cache, rest, StandingParts(), files, SilentReporter()) == len(rest.entries) - 2
    )  # the masks are there


def test_the_progress_of_masks_comes_to_its_end_and_masks_that_are_there_show_none(
    tmp_path: Path,
) -> None:
    files = painted(tmp_path, {"a.png": (70, 80), "b.png": (0, 192)})
    index = build_index(plan_of(crop_style="center"), items_in(tmp_path), TINY_CONFIG)
    first, again = CountingReporter(), CountingReporter()

    fill_masks(tmp_path / "cache", index, files, first)
    fill_masks(tmp_path / "cache", index, files, again)

    assert [done for _, done, _ in first.shown] == [0, 1, 2]
    assert first.shown[-1] == ("checking masks", 2, 2)
    assert not again.shown


def test_more_than_half_ends_the_run_with_their_names(tmp_path: Path) -> None:
    plan = plan_of(crop_style="corner")  # the columns 0 to 64
    files = painted(tmp_path, {f"{n}.png": (80, 190) if n else (0, 190) for n in range(3)})
    items = items_in(tmp_path)
    index = build_index(plan, items, TINY_CONFIG)
    with pytest.raises(UnusableImagesError) as raised:
        fill_masks(tmp_path / "cache", index, files, SilentReporter())

    with pytest.raises(PlanError) as refused:
        build_index(plan, items, TINY_CONFIG, unusable=raised.value.reasons)

    (problem,) = refused.value.problems
    assert (problem.pointer, problem.code) == ("/data_backends/0", "mostly_unusable")
    assert "a: 2 files in its data cannot be used" in problem.message
    assert f"1.png: {BLACK}" in problem.message


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    first=st.integers(1, 180),
    wide=st.integers(1, 12),
    crops=st.integers(1, 4),
)
def test_of_several_random_crops_those_that_see_the_mask_are_used(
    tmp_path_factory: pytest.TempPathFactory, first: int, wide: int, crops: int
) -> None:
    folder = tmp_path_factory.mktemp("lit")
    lit = {"a.png": (first, first + wide), **{f"{n}.png": (0, 192) for n in range(3)}}
    plan, files = plan_of(crop_style="random", crops_per_image=crops), painted(folder, lit)
    whole = build_index(plan, items_in(folder), TINY_CONFIG)
    unusable: dict[str, str] = {}
    try:
        fill_masks(folder / "cache", whole, files, SilentReporter())
    except UnusableImagesError as error:
        unusable |= error.reasons

    index = build_index(plan, items_in(folder), TINY_CONFIG, unusable=unusable)

    def places(found: DataIndex) -> list[int]:
        of_a = [each for each in found.samples if each.path == "a.png"]
        contents = [
            found.entries[each.crop(n).latents].content
            for each in of_a
            for n in range(each.num_crops)
        ]
        return [each.geometry.crop_x for each in contents if isinstance(each, Picture)]

    column = np.zeros(192)
    column[first : first + wide] = 255
    seen = [x for x in places(whole) if column[x : x + 64].any()]
    assert places(index) == seen
    assert ("a.png" in used(index)) == bool(seen)
    assert any(BLACK in warning for warning in index.warnings) == (seen != places(whole))


def test_a_shard_lacks_only_what_cannot_be_encoded(tmp_path: Path) -> None:
    plan = plan_of(crop_style="center")
    files = painted(tmp_path, {"a.png": (70, 80), "b.png": (0, 60), "c.png": (64, 128)})
    index = build_index(plan, items_in(tmp_path), TINY_CONFIG)
    masks = {each.digest for n, each in enumerate(index.entries) if index.kind_of(n) == "masks"}
    (spec,) = shards_of(index, masks)
    output = tmp_path / "shard.safetensors"

    unusable = encode_shard(None, spec, files, output)

    assert list(unusable.values()) == [BLACK]
    assert read_places(output).keys() == masks - unusable.keys()
    output.unlink()
    alone = spec.without(masks - unusable.keys())
    assert isinstance(alone, ShardSpec)
    assert encode_shard(None, alone, files, output) == unusable
    assert not output.exists()


def masks_to_encode(folder: Path) -> tuple[ShardSpec, dict[str, Path]]:
    """A shard of one mask, and the files that it needs."""
    files = painted(folder, {"a.png": (70, 80)})
    index = build_index(plan_of(crop_style="center"), items_in(folder), TINY_CONFIG)
    masks = {each.digest for n, each in enumerate(index.entries) if index.kind_of(n) == "masks"}
    (spec,) = shards_of(index, masks)
    return spec, files


def test_a_decoder_that_is_missing_leaves_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, _ = masks_to_encode(tmp_path)
    file = tmp_path / "a.jxl"
    file.write_bytes(b"\xff\x0a" + bytes(40))  # as JPEG XL begins
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    (mask,) = spec.entries
    spec = spec.model_copy(update={"entries": (mask.model_copy(update={"sha256": sha256}),)})
    monkeypatch.setattr("trainer_core.data.images._openable", lambda: ("PNG",))

    with pytest.raises(DecoderMissingError):
        encode_shard(None, spec, {sha256: file}, tmp_path / "shard")


def test_too_little_memory_leaves_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise MemoryError

    spec, files = masks_to_encode(tmp_path)
    monkeypatch.setattr(Image.Image, "load", load)

    with pytest.raises(MemoryError):
        encode_shard(None, spec, files, tmp_path / "shard")


def test_what_is_noted_in_a_cache_is_known_to_the_next_run(tmp_path: Path) -> None:
    assert noted_unusable(tmp_path) == {}
    note_unusable(tmp_path, {"a": "damaged"})
    note_unusable(tmp_path, {"b": "black"})
    assert noted_unusable(tmp_path) == {"a": "damaged", "b": "black"}
    (tmp_path / "unusable.json").write_text("[1]")
    assert noted_unusable(tmp_path) == {}
