"""Survey a folder of images before a run: their number, their buckets, and those left out.

It reads file names, image headers and caption files. In a very large folder it reads a part.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainer_core.config.plan import Backend
from trainer_core.data.buckets import geometry_of, is_too_small
from trainer_core.data.captions import caption_path, read_captions
from trainer_core.data.folder import list_files, stem_of
from trainer_core.data.images import inspect_header
from trainer_core.errors import BadCaptionError, BadImageError

MAX_LOOKED_AT: Final = 20_000
"""The most images of a folder whose headers are read; about 0.1 ms each on a local disk."""
_NAMED_AT_MOST: Final = 5

OnProgress = Callable[[int, int], None]
"""Called with the number of images read so far and the number to read."""


@dataclass(slots=True)
class LeftOut:
    """Images that a run would leave out or fail at, for one reason."""

    why: str
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.count += 1
        if len(self.first) < _NAMED_AT_MOST:
            self.first.append(what)


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The images in the folder of one backend."""

    backend: Backend
    pictures: int
    looked_at: int
    """The number of images that were read, evenly spread; the counts below are of these."""
    buckets: Counter[tuple[int, int]]
    """(width, height) of a bucket in pixels → number of images."""
    too_small: LeftOut
    without_caption: LeftOut
    without_mask: LeftOut
    unreadable: LeftOut
    """Images and caption files, each with its error."""

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
    """Survey the images of one backend, for training or held out.

    Args:
        folder: searched with its sub-folders.
        max_px: the largest area in pixels that the base model takes.
        masks: folder of the backend's masks; None without masks.
    """
    pictures = list_files(folder).images
    mask_stems = None if masks is None else {stem_of(name) for name in list_files(masks).images}
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
    for done, name in enumerate(_spread(pictures, max_looked_at), start=1):
        _count(folder, name, mask_stems, survey, max_px)
        on_progress(done, survey.looked_at)
    return survey


def _count(
    folder: Path, name: str, mask_stems: Collection[str] | None, survey: Survey, max_px: int
) -> None:
    """Add one image to the survey; ``mask_stems`` is None where the backend has no masks."""
    backend = survey.backend
    try:
        facts = inspect_header(folder / name, name=name)
        captions = read_captions(backend, folder, name, name=caption_path(name))
    except (BadImageError, BadCaptionError) as error:
        survey.unreadable.add(str(error))
        return
    if is_too_small(facts.width_px, facts.height_px, backend):
        survey.too_small.add(name)
    elif not captions:
        survey.without_caption.add(name)
    else:
        geometry = geometry_of(facts.width_px, facts.height_px, backend, max_px)
        survey.buckets[geometry.width_px, geometry.height_px] += 1
        if mask_stems is not None and stem_of(name) not in mask_stems:
            survey.without_mask.add(name)


def _spread(names: Sequence[str], most: int) -> Iterator[str]:
    """All names, or ``most`` of them, evenly spread."""
    if len(names) <= most:
        yield from names
    else:
        yield from (names[i * len(names) // most] for i in range(most))
