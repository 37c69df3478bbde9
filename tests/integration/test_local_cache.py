"""The cache of local runs: what is encoded again, and what encoding many captions takes."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.standing_parts import SMALL_SHAPES, TRUE_SHAPES, StandingParts
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Plan
from trainer_core.data.entries import EntryFolder
from trainer_core.data.index import Caption, DataIndex, Encoding, Entry
from trainer_core.data.indexing import build_index
from trainer_core.local.cache import fill_cache
from trainer_core.local.data import scan
from trainer_core.process.control import StopRequestedError
from trainer_core.progress import SilentReporter

TEXTS = tuple(name for name in SMALL_SHAPES if name != "vae")


def plan_of() -> Plan:
    return import_small({}, backends=[{"id": "a", "caption_strategy": "textfile"}]).plan


class Project:
    """A folder of pictures with their captions in text files, and its cache."""

    def __init__(self, folder: Path, count: int) -> None:
        self._photos, self._cache = folder / "photos", folder / "cache"
        self._photos.mkdir()
        for number in range(count):
            self.add(number)

    def add(self, number: int) -> None:
        shade = number % 256, number // 256, 7
        Image.new("RGB", (64, 64), shade).save(self._photos / f"{number:05}.png", compress_level=1)
        self.caption(number, f"picture {number}")

    def caption(self, number: int, text: str) -> None:
        (self._photos / f"{number:05}.txt").write_text(text)

    def remove(self, number: int) -> None:
        for suffix in (".png", ".txt"):
            (self._photos / f"{number:05}{suffix}").unlink()

    def rename(self, number: int, name: str) -> None:
        for suffix in (".png", ".txt"):
            (self._photos / f"{number:05}{suffix}").rename(self._photos / f"{name}{suffix}")

    def run(self) -> dict[str, int]:
        """What the start of a run encodes: encoder → calls."""
        plan, parts = plan_of(), StandingParts()
        notes = self._cache / "pictures.json"
        data = scan(plan, {"a": self._photos}, notes, SilentReporter(), (self._cache,))
        index = build_index(plan, data.items, TINY_CONFIG)
        encoded = fill_cache(self._cache, index, parts, data.images, SilentReporter())
        assert encoded == parts.calls["vae"] + parts.calls["text_encoder_4"]
        return {name: parts.calls[name] for name in SMALL_SHAPES if parts.calls[name]}


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.deep)])
def test_a_change_of_one_picture_encodes_that_one_only(tmp_path: Path, count: int) -> None:
    (tmp_path / "cache").mkdir()
    project = Project(tmp_path, count)

    assert project.run() == {"vae": count, **dict.fromkeys(TEXTS, count + 1)}  # the empty prompt
    assert project.run() == {}
    project.add(count)
    assert project.run() == {"vae": 1, **dict.fromkeys(TEXTS, 1)}
    project.remove(3)
    assert project.run() == {}
    project.rename(5, "zebra")
    assert project.run() == {}
    project.caption(7, "another")
    assert project.run() == dict.fromkeys(TEXTS, 1)
    project.caption(9, "picture 8")  # as another picture's
    assert project.run() == {}
    project.add(3)  # as before it was removed
    assert project.run() == {}


def index_of(captions: int) -> DataIndex:
    """An index of captions only."""
    encoding = Encoding(kind="text", encoder={"base_digest": "0" * 64, "compute": "bf16"})
    contents = [Caption(text=f"caption {number}") for number in range(captions)]
    entries = [Entry(digest=encoding.digest_of(c), encoding=0, content=c) for c in contents]
    return DataIndex(samples=(), encodings=(encoding,), entries=tuple(entries), prompts={})


class Watching(SilentReporter):
    """Calls ``look`` before each unit of work, with how many are done."""

    def __init__(self, look: Callable[[int, int], None]) -> None:
        self._look = look

    def progress(self, stage: str, done: int, total: int) -> None:
        self._look(done, total)


def test_a_stop_between_any_two_calls_of_encoders_loses_no_finished_entry(tmp_path: Path) -> None:
    index = index_of(4)
    whole = tmp_path / "whole"
    fill_cache(whole, index, StandingParts(), {}, SilentReporter())
    expected = {e.digest: EntryFolder(whole).read(e.digest, "text") for e in index.entries}

    for stop_at in range(4 * len(TEXTS)):
        cache, parts = tmp_path / f"{stop_at}", StandingParts()

        def stop(done: int, total: int, at: int = stop_at) -> None:
            if done == at:
                raise StopRequestedError("a stop was asked for")

        with pytest.raises(StopRequestedError):
            fill_cache(cache, index, parts, {}, Watching(stop))
        finished = len(list(cache.glob("*.safetensors")))
        assert finished == max(0, stop_at - 3 * len(index.entries))  # Llama is the last
        assert not list(cache.glob(".*.tmp"))
        again = StandingParts()
        assert fill_cache(cache, index, again, {}, SilentReporter()) == 4 - finished
        assert again.calls == dict.fromkeys(TEXTS, 4 - finished)
        for digest, tensors in expected.items():
            found = EntryFolder(cache).read(digest, "text")
            assert all(bool((found[name] == each).all()) for name, each in tensors.items())


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize(
    ("captions", "most_mib"), [(12, 250), pytest.param(2000, 2500, marks=pytest.mark.deep)]
)
def test_captions_of_true_shapes_are_encoded_in_bounded_memory(
    tmp_path: Path, captions: int, most_mib: int
) -> None:
    """One is 34.6 MB, so 12 are 415 MB, and 2,000 are 69 GB: they are deleted as they appear."""
    index, parts = index_of(captions), StandingParts(TRUE_SHAPES)
    sizes: dict[str, int] = {}
    before_mib = highest_mib = rss_mib()

    def look(done: int, total: int) -> None:
        nonlocal highest_mib
        highest_mib = max(highest_mib, rss_mib())
        for file in tmp_path.glob("*.safetensors"):
            sizes[file.name] = file.stat().st_size
            file.unlink()
        assert total == 4 * captions

    assert fill_cache(tmp_path, index, parts, {}, Watching(look)) == captions

    assert parts.calls == dict.fromkeys(TEXTS, captions)
    assert len(sizes) == captions
    assert all(34_600_000 < size < 34_610_000 for size in sizes.values())
    assert highest_mib - before_mib < most_mib
    assert highest_mib < 4096


def test_entries_have_the_digests_of_their_own_content(tmp_path: Path) -> None:
    """Whatever order they are encoded in: what is read for a caption was made from it."""
    index = index_of(5)
    fill_cache(tmp_path, index, StandingParts(), {}, SilentReporter())
    parts: Mapping[str, Any] = {
        name: StandingParts().load(name, index.encodings[0].encoder) for name in TEXTS
    }

    for entry in index.entries:
        found = EntryFolder(tmp_path).read(entry.digest, "text")
        text = entry.content.model_dump()["text"]
        (t5,), (llama,) = parts["text_encoder_3"](text), parts["text_encoder_4"](text)
        assert bool((found["t5"] == t5).all())
        assert bool((found["llama"] == llama).all())
        assert found["pooled"][0, 0] == parts["text_encoder_1"](text)[0][0, 0]
        assert found["pooled"][0, -1] == parts["text_encoder_2"](text)[0][0, 0]
