"""Which pictures, captions and weight files differ between a run and the one of a checkpoint.

A checkpoint's manifest has digests only. The job that wrote it is in the output folder, and says
what they are made of.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from trainer_core.data.index import Caption, DataIndex, Picture, Sample
from trainer_core.process.job import Job

_NAMED: Final = 3
"""At most this many pictures or files are named."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def data_differences(here: DataIndex, there: DataIndex, *, names_count: bool) -> list[str]:
    """Pictures that were added, removed or changed, and changed captions and masks.

    Args:
        here: the data of this run.
        there: the data of the checkpoint's run.
        names_count: whether a renamed picture is another one, as in the order by names.

    Returns:
        Texts such as ``photos/cat.jpg has another caption``; empty where files and captions are the
        same, as where only the size of the buckets differs.
    """
    mine, theirs = _samples(here), _samples(there)
    new = {name: _made_of(here, mine[name]) for name in mine.keys() - theirs.keys()}
    missing = {name: _made_of(there, theirs[name]) for name in theirs.keys() - mine.keys()}
    renamed = Counter[object]() if names_count else _common(new, missing)
    found = [f"{name} is new" for name in _without(new, renamed)]
    found += [f"{name} is missing" for name in _without(missing, renamed)]
    for name in mine.keys() & theirs.keys():
        found += [f"{name} {what}" for what in _changes(here, mine[name], there, theirs[name])]
    return _first(sorted(found), "pictures")


def base_differences(here: Job, there: Job) -> list[str]:
    """The weight files that differ, or that another base model is named."""
    ours, theirs = here.plan.identity.base.name, there.plan.identity.base.name
    files, others = here.base_files, there.base_files
    names = sorted(files.keys() | others.keys())
    changed = [_file_difference(name, files.get(name), others.get(name)) for name in names]
    found = [text for text in changed if text is not None]
    if ours != theirs and (not found or len(found) == len(names)):
        return [f"the base model: {ours} here, {theirs} in the checkpoint"]
    return [f"the base model: {text}" for text in _first(found, "files")]


def _samples(index: DataIndex) -> dict[str, Sample]:
    return {f"{sample.backend}/{sample.path}": sample for sample in index.samples}


def _made_of(index: DataIndex, sample: Sample) -> tuple[object, ...]:
    """What a picture is, but for its name."""
    captions = tuple(_content(index, text) for text in sample.texts)
    mask = None if sample.mask is None else _content(index, sample.mask)
    return sample.backend, _content(index, sample.latents), captions, mask


def _common(new: Mapping[str, object], missing: Mapping[str, object]) -> Counter[object]:
    return Counter(new.values()) & Counter(missing.values())


def _without(pictures: Mapping[str, object], renamed: Counter[object]) -> Iterator[str]:
    """The names of those that are not among the renamed ones."""
    left = Counter(renamed)
    for name, made_of in sorted(pictures.items(), key=lambda item: item[0]):
        if left[made_of]:
            left[made_of] -= 1
        else:
            yield name


def _changes(here: DataIndex, mine: Sample, there: DataIndex, theirs: Sample) -> Iterator[str]:
    if _content(here, mine.latents) != _content(there, theirs.latents):
        yield "is another picture"
    if [_content(here, r) for r in mine.texts] != [_content(there, r) for r in theirs.texts]:
        yield "has another caption"
    masks = [
        None if each.mask is None else _content(index, each.mask)
        for index, each in ((here, mine), (there, theirs))
    ]
    if masks[0] != masks[1]:
        yield "has another mask"


def _content(index: DataIndex, entry: int) -> str:
    match index.entries[entry].content:
        case Caption(text=text):
            return text
        case Picture(sha256=sha256):
            return sha256


def _file_difference(name: str, here: str | None, there: str | None) -> str | None:
    match here, there:
        case None, _:
            return f"{name} is missing"
        case _, None:
            return f"{name} is new"
        case _ if here == there:
            return None
        case str(), str() if _SHA256.fullmatch(here) and _SHA256.fullmatch(there):
            return f"{name} has another content"
    return f"{name}: {here} here, {there} in the checkpoint"


def _first(found: list[str], what: str) -> list[str]:
    more = [f"and {len(found) - _NAMED} more {what}"] if len(found) > _NAMED else []
    return [*found[:_NAMED], *more]
