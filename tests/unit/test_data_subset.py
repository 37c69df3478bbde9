"""``max_num_samples`` chooses the same images in every run, by what they are."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index


def plan_of(**options: Any) -> Plan:
    return import_small(backends=[{"id": "a", "caption_strategy": "filename", **options}]).plan


def items(contents: Sequence[int], *, prefix: str = "", backend: str = "a") -> list[FileItem]:
    return [
        FileItem(
            backend=backend,
            path=f"{prefix}{position:03}.png",
            sha256=f"{content:064x}",
            width_px=256,
            height_px=256,
            captions=("a cat",),
        )
        for position, content in enumerate(contents)
    ]


def chosen(most: int, files: Sequence[FileItem]) -> list[FileItem]:
    index = build_index(plan_of(max_num_samples=most), files, TINY_CONFIG)
    paths = {sample.path for sample in index.samples}
    return [file for file in files if file.path in paths]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(1, 50))
def test_the_number_is_kept_and_the_names_do_not_count(contents: list[int], most: int) -> None:
    one = chosen(most, items(contents))
    other = chosen(most, items(list(reversed(contents)), prefix="renamed-"))

    assert len(one) == len(other) == min(most, len(contents))
    assert sorted(file.sha256 for file in one) == sorted(file.sha256 for file in other)


def test_one_image_more_puts_out_one_at_most() -> None:
    before = {file.sha256 for file in chosen(20, items(range(100)))}
    after = {file.sha256 for file in chosen(20, items(range(101)))}

    assert len(before - after) <= 1


def test_each_backend_chooses_for_itself_and_tells_it() -> None:
    named = [
        {"id": id_, "caption_strategy": "filename", "max_num_samples": 30, **more}
        for id_, more in (("a", {}), ("b", {"dataset_type": "eval"}))
    ]
    plan = import_small(backends=list(named)).plan
    files = [*items(range(100)), *items(range(100), backend="b")]

    index: DataIndex = build_index(plan, files, TINY_CONFIG)

    of = {id_: {s.path for s in index.samples if s.backend == id_} for id_ in "ab"}
    assert [len(paths) for paths in of.values()] == [30, 30]
    assert of["a"] != of["b"]
    for id_ in "ab":
        assert (
            f"{id_}: 30 of 100 usable images are used, chosen by max_num_samples; each run "
            "chooses the same ones."
        ) in index.warnings


def test_all_images_are_as_many_as_there_are() -> None:
    index = build_index(plan_of(max_num_samples=3), items(range(3)), TINY_CONFIG)

    assert len(index.samples) == 3
    assert not any("max_num_samples" in warning for warning in index.warnings)
