"""A look at a folder of pictures before anything is run: how many, which buckets, what falls out.

Only names, the first bytes of pictures and caption files are read; of very many pictures a part.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from trainer_core.config.plan import Backend
from trainer_core.data.buckets import geometry_of, is_too_small
from trainer_core.data.captions import (
    MAX_CAPTION_CHARACTERS,
    caption_path,
    captions_of,
    decode_caption,
)
from trainer_core.data.images import SUFFIXES, inspect_header
from trainer_core.errors import BadCaptionError, BadImageError

MAX_LOOKED_AT: Final = 20_000
"""Pictures of a folder whose sizes are read; about 0.1 ms each on a local disk."""
_NAMED_AT_MOST: Final = 5
_MAX_CAPTION_BYTES: Final = 4 * MAX_CAPTION_CHARACTERS

OnProgress = Callable[[int, int], None]
"""Called with how many pictures of how many are done."""


@dataclass(slots=True)
class LeftOut:
    """Pictures that a run would leave out, or fail at, for one reason."""

    why: str
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.count += 1
        if len(self.first) < _NAMED_AT_MOST:
            self.first.append(what)


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What lies in the folder of one backend."""

    backend: Backend
    pictures: int
    looked_at: int
    """Of the pictures, evenly spread; counts below are among these."""
    buckets: Counter[tuple[int, int]]
    """(width, height) in pixels → pictures."""
    too_small: LeftOut
    without_caption: LeftOut
    without_mask: LeftOut
    unreadable: LeftOut
    """With what is wrong, of pictures and caption files."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        groups = (self.too_small, self.without_caption, self.without_mask, self.unreadable)
        return tuple(group for group in groups if group.count)


def survey_pictures(
    folder: Path,
    backend: Backend,
    *,
    max_px: int,
    masks: Path | None = None,
    on_progress: OnProgress,
    max_looked_at: int = MAX_LOOKED_AT,
) -> Survey:
    """Look at the pictures of a backend that are trained on or held out.

    Args:
        folder: searched with its sub-folders; hidden files are passed over.
        max_px: the largest area that the base model takes.
        masks: folder of the backend's masks, where there is one.
    """
    names = sorted(_names(folder))
    pictures = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    stems = None if masks is None else {_stem(name) for name in _names(masks)}
    survey = Survey(
        backend=backend,
        pictures=len(pictures),
        looked_at=min(len(pictures), max_looked_at),
        buckets=Counter(),
        too_small=LeftOut(f"smaller than minimum_image_size ({backend.minimum_image_size_px} px)"),
        without_caption=LeftOut("without a caption"),
        without_mask=LeftOut(f"without a mask in {backend.masks}"),
        unreadable=LeftOut("not readable"),
    )
    listed = _Listed(
        folder=folder,
        texts=frozenset(name for name in names if name.endswith(".txt")),
        mask_stems=stems,
    )
    for done, name in enumerate(_spread(pictures, max_looked_at), start=1):
        _look_at(name, listed, survey, max_px)
        on_progress(done, survey.looked_at)
    return survey


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listed:
    """What lies beside the pictures of a folder."""

    folder: Path
    texts: Collection[str]
    mask_stems: Collection[str] | None
    """Names of the masks without their endings; None where there are none to look for."""


def _look_at(name: str, listed: _Listed, survey: Survey, max_px: int) -> None:
    backend = survey.backend
    try:
        facts = inspect_header(listed.folder / name, name=name)
        has_caption = bool(captions_of(backend, name, _caption(name, listed, backend)))
    except (BadImageError, BadCaptionError, OSError) as error:
        survey.unreadable.add(str(error))
        return
    if is_too_small(facts.width_px, facts.height_px, backend):
        survey.too_small.add(name)
    elif not has_caption:
        survey.without_caption.add(name)
    else:
        geometry = geometry_of(facts.width_px, facts.height_px, backend, max_px)
        survey.buckets[geometry.width_px, geometry.height_px] += 1
        if listed.mask_stems is not None and _stem(name) not in listed.mask_stems:
            survey.without_mask.add(name)


def _caption(name: str, listed: _Listed, backend: Backend) -> str | None:
    """The text of the caption file; None where there is none, or none is needed."""
    file = caption_path(name)
    if backend.caption_strategy != "textfile" or file not in listed.texts:
        return None
    with (listed.folder / file).open("rb") as stream:
        return decode_caption(stream.read(_MAX_CAPTION_BYTES + 1), name=file)


def _names(folder: Path) -> Iterator[str]:
    """Relative paths of all files that are not hidden, ``/`` between their parts."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(parent).relative_to(folder)
        for name in files:
            if not name.startswith("."):
                yield (inside / name).as_posix()


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _spread(names: Sequence[str], most: int) -> Iterator[str]:
    """All, or so many at even distances."""
    if len(names) <= most:
        yield from names
    else:
        yield from (names[i * len(names) // most] for i in range(most))
