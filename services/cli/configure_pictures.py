"""What `reverie configure` finds in a folder of pictures: sizes, captions, masks, broken files."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from trainer_core.config.plan import plain_backend
from trainer_core.data.captions import captions_of, read_captions
from trainer_core.data.folder import caption_files, list_files, notes_on, stem_of
from trainer_core.data.images import inspect_image
from trainer_core.data.mask_levels import check_lit
from trainer_core.errors import BadCaptionError, BadImageError
from trainer_core.in_words import counted, share_having

_THREADS: Final = min(8, os.cpu_count() or 1)
_MASK_FOLDERS: Final = frozenset({"mask", "masks"})
_TEXT_FILES: Final = plain_backend("pictures", role="train", caption_strategy="textfile")
_NAMES: Final = _TEXT_FILES.model_copy(update={"caption_strategy": "filename"})

OnProgress = Callable[[int, int], None]
"""Called with the number of pictures looked at, and the number to look at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture that can be read."""

    name: str
    """Path in the folder."""
    width_px: int
    height_px: int
    captions: tuple[str, ...] = ()
    """Lines of the text file beside it."""
    caption_file: str | None = None
    """Path of that file in the folder; None where there are no words."""
    bad_caption: str | None = None
    """What is wrong with that file."""
    mask: str | None = None
    """Path of its mask in the folder of masks."""

    @property
    def edge_px(self) -> float:
        """Edge of the square of the same area."""
        return math.sqrt(self.width_px * self.height_px)

    @property
    def times_as_long(self) -> float:
        """Its long side in its short ones."""
        return max(self.width_px, self.height_px) / min(self.width_px, self.height_px)

    @property
    def words(self) -> tuple[str, ...]:
        """Its caption where its name is one."""
        return captions_of(_NAMES, self.name, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """A folder of pictures."""

    folder: Path
    usable: tuple[Picture, ...]
    broken: Mapping[str, str]
    """Path of a picture that cannot be used → what is wrong with it or with its mask."""
    notes: tuple[str, ...] = ()
    """What else is in the folder and not read, each a sentence."""
    masks: Path | None = None
    """Folder of the masks, which may be the pictures' own; None where there are none."""

    @property
    def holds_masks(self) -> bool:
        """Whether masks lie among the pictures, where a run would take them for pictures."""
        return self.masks == self.folder


def look_at(folder: Path, masks: Path | None, on_progress: OnProgress) -> Pictures:
    """Read all pictures and captions of a folder and its sub-folders.

    Args:
        folder: of the pictures. Below a sub-folder ``masks`` or ``mask`` are masks.
        masks: another folder of masks, by the same names.
        on_progress: called after each picture.
    """
    files = list_files(folder)
    inside = _masks_inside(files.images)
    if masks is None:
        mask_of = _by_stem(inside)
        masks = folder if inside else None
    elif masks.is_relative_to(folder):
        below = f"{masks.relative_to(folder).as_posix()}/"
        inside |= {name for name in files.images if name.startswith(below)}
        named = _by_stem(list_files(masks).images)
        mask_of = {stem: below + path for stem, path in named.items()}
        masks = folder
    else:
        mask_of = _by_stem(list_files(masks).images)
    names = [name for name in files.images if name not in inside]
    read = partial(_read, folder, masks, mask_of, caption_files(files.captions))
    usable: list[Picture] = []
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for done, (name, found) in enumerate(zip(names, pool.map(read, names), strict=True), 1):
                if isinstance(found, Picture):
                    usable.append(found)
                else:
                    broken[name] = found
                on_progress(done, len(names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Pictures(
        folder=folder,
        usable=tuple(usable),
        broken=broken,
        notes=tuple(notes_on(files)),
        masks=masks,
    )


def _read(
    folder: Path,
    masks: Path | None,
    mask_of: Mapping[str, str],
    caption_of: Mapping[str, str],
    name: str,
) -> Picture | str:
    """One picture, or what is wrong with it; decoded as a run decodes it.

    ``mask_of``, ``caption_of``: stem of a picture → path of the file.
    """
    mask, caption_file = mask_of.get(stem_of(name)), caption_of.get(stem_of(name))
    try:
        _check_name(name)
        facts = inspect_image(folder / name, name=name)
        if mask is not None and masks is not None:
            lit = inspect_image(masks / mask, name=f"mask {mask}", is_mask=True).lit
            check_lit("mask", lit, name=f"mask {mask}")
    except BadImageError as error:
        return error.message
    except OSError as error:
        return f"{name}: {error.strerror}"
    captions: tuple[str, ...] = ()
    bad_caption = None
    if caption_file is not None:
        try:
            captions = read_captions(_TEXT_FILES, name, folder / caption_file, name=caption_file)
        except BadCaptionError as error:
            bad_caption = error.message
    return Picture(
        name=name,
        width_px=facts.width_px,
        height_px=facts.height_px,
        captions=captions,
        caption_file=caption_file if captions else None,
        bad_caption=bad_caption,
        mask=mask,
    )


def _check_name(name: str) -> None:
    """Raise BadImageError for a name that no JSON file can hold."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = name.encode(errors="backslashreplace").decode()
        raise BadImageError(f"{shown}: its name is not text in UTF-8") from error


def _masks_inside(images: Sequence[str]) -> frozenset[str]:
    """The images in folders of masks; none where no picture beside them has the name of one."""
    inside = frozenset(name for name in images if _picture_of(name) != name)
    stems = {stem_of(name) for name in images if name not in inside}
    return inside if stems & _by_stem(inside).keys() else frozenset()


def _by_stem(masks: Iterable[str]) -> dict[str, str]:
    """Stem of a picture → path of its mask; of several masks the first."""
    found: dict[str, str] = {}
    for path in sorted(masks):
        found.setdefault(stem_of(_picture_of(path)), path)
    return found


def _picture_of(path: str) -> str:
    """The path of a mask without the folder of masks; of any other image its own path."""
    *folders, name = PurePosixPath(path).parts
    kept = [folder for folder in folders if folder.lower() not in _MASK_FOLDERS]
    return "/".join([*kept, name])


def summary_of(pictures: Pictures) -> list[str]:
    """What was found, for a person, each a sentence or less."""
    usable, lines = pictures.usable, []
    total = len(usable) + len(pictures.broken)
    lines.append(f"{counted(total, 'picture')}{_sizes(usable)}")
    written = sum(bool(picture.captions) for picture in usable)
    having = share_having(written, len(usable), "picture")
    lines.append(f"captions: {having} a text file with words in it")
    if pictures.masks is not None:
        covered = sum(picture.mask is not None for picture in usable)
        lines.append(f"masks: {share_having(covered, len(usable), 'picture')} one")
    bad = [*pictures.broken.values(), *(p.bad_caption for p in usable if p.bad_caption)]
    lines += [f"cannot be used: {message}" for message in _first(bad)]
    lines += pictures.notes
    return lines


def _sizes(usable: Sequence[Picture]) -> str:
    if not usable:
        return ""
    least, most = (pick(usable, key=lambda picture: picture.edge_px) for pick in (min, max))
    small, large = (f"{each.width_px} x {each.height_px}" for each in (least, most))
    return f", {small} px" if small == large else f", {small} to {large} px"


def _first(messages: Sequence[str], most: int = 5) -> list[str]:
    more = len(messages) - most
    return [*messages[:most], *([f"and {more} more"] if more > 0 else [])]
