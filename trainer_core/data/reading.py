"""Read the images and captions in the local folder of a data backend."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from trainer_core.config.plan import Backend
from trainer_core.data.captions import read_captions, reads_caption_files
from trainer_core.data.folder import (
    FolderFiles,
    caption_files,
    list_files,
    notes_on,
    some_of,
    stem_of,
)
from trainer_core.data.index import FileItem
from trainer_core.data.mask_levels import Lit, check_lit
from trainer_core.errors import BadCaptionError, BadImageError
from trainer_core.paths import find_folder, places_of

_ERRORS_SHOWN: Final = 20


class ReadFacts(Protocol):
    """What is known of one image, once it has been decoded."""

    @property
    def sha256(self) -> str: ...
    @property
    def width_px(self) -> int: ...
    @property
    def height_px(self) -> int: ...
    @property
    def has_more(self) -> bool:
        """The file has further frames or pages."""

    @property
    def lit(self) -> Lit | None:
        """Of a mask: what is above black."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One image with its captions."""

    item: FileItem
    path: Path
    has_more: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendFolder:
    """The files of one backend."""

    backend: Backend
    folder: Path
    files: FolderFiles
    captions: Mapping[str, str]
    """Stem → caption file."""

    def read(
        self, path: str, facts_of: Callable[[Path, str], ReadFacts]
    ) -> Reading | BadImageError | BadCaptionError:
        """One image, or what is wrong with it.

        Args:
            path: one of ``files.images``.
            facts_of: takes the file and its name for a message. Of masks it tells what is lit.
        """
        caption = self.captions.get(stem_of(path))
        try:
            _check_name(path)
            facts = facts_of(self.folder / path, path)
            if self.backend.mask_kind is not None:
                check_lit(self.backend.mask_kind, facts.lit, name=path)
            item = FileItem(
                backend=self.backend.id,
                path=path,
                sha256=facts.sha256,
                width_px=facts.width_px,
                height_px=facts.height_px,
                captions=read_captions(
                    self.backend,
                    path,
                    None if caption is None else self.folder / caption,
                    name=caption or "",
                ),
            )
        except (BadImageError, BadCaptionError) as error:
            return error
        return Reading(item=item, path=self.folder / path, has_more=facts.has_more)

    def notes(self, readings: Iterable[Reading]) -> list[str]:
        """What of the folder is not used, each a sentence that begins with the backend's id."""
        found = [
            *notes_on(self.files),
            *caption_notes(self.backend, self.files.images, self.files.captions),
            *_frame_notes([reading.item.path for reading in readings if reading.has_more]),
        ]
        return [f"{self.backend.id}: {note}" for note in found]


def listed(backend: Backend, folder: Path, own: Collection[Path]) -> BackendFolder:
    """The files in the folder of a backend; ``own``: folders that the run writes to."""
    files = list_files(folder, own)
    captions = caption_files(files.captions) if reads_caption_files(backend) else {}
    return BackendFolder(backend=backend, folder=folder, files=files, captions=captions)


def folder_of(backend: Backend, name: str, folders: Sequence[Path]) -> Path | str:
    """The folder of a backend, or the message that there is none.

    Args:
        backend: the backend.
        name: its ``instance_data_dir``.
        folders: a relative name is tried from each of these.
    """
    folder = find_folder(name, folders)
    if folder is not None:
        return folder
    tried = ", ".join(str(place)[:300] for place in places_of(name, folders))
    return (
        f"{backend.id}: instance_data_dir names {name[:200]}, which is not a folder in any of "
        f"these places: {tried}"
    )


def caption_notes(backend: Backend, images: Sequence[str], captions: Sequence[str]) -> list[str]:
    """Caption files that are not used, and why, each a sentence."""
    if backend.role == "mask" or not captions:
        return []
    if not reads_caption_files(backend):
        note = (
            f"{_count(captions, 'caption file')} not read, because caption_strategy is "
            f"{backend.caption_strategy}: {some_of(captions)}. Set it to textfile to train on them."
        )
        return [note]
    stems = {stem_of(path) for path in images}
    used = set(caption_files(captions).values())
    idle = [path for path in captions if path not in used or stem_of(path) not in stems]
    if not idle:
        return []
    note = f"{_count(idle, 'caption file')} not used, because no image has the same name: "
    return [f"{note}{some_of(idle)}."]


def _frame_notes(paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    has = "has" if len(paths) == 1 else "have"
    note = (
        f"{len(paths)} file{'s' * (len(paths) > 1)} {has} several frames or pages, of which the "
        f"first is used: {some_of(paths)}."
    )
    return [note]


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """The images of one backend that cannot be used, or whose captions cannot."""

    backend: Backend
    place: str
    """Where the files are, for the message."""
    images: int
    """All that were read."""
    errors: Sequence[BadImageError | BadCaptionError]

    @property
    def ends_run(self) -> bool:
        """Whether they are more than half: then the folder is wrong, and not some of its files."""
        return 2 * len(self.errors) > self.images

    def message(self) -> str:
        """All of them, each with what is wrong on a line of its own; at most 20."""
        many = len(self.errors)
        files = f"{many} file{'s' * (many > 1)} in {self.place}"
        return "\n  ".join((f"{self.backend.id}: {files} cannot be used:", *_shown(self.errors)))

    def warnings(self) -> list[str]:
        """How many they are, and what is wrong with each; for a run that goes on without them.

        At most 20 are named.
        """
        many = len(self.errors)
        are = "is" if many == 1 else "are"
        left_out = f"{many} of {self.images} images cannot be used and {are} left out."
        return [f"{self.backend.id}: {note}" for note in (left_out, *_shown(self.errors))]


def _shown(errors: Sequence[BadImageError | BadCaptionError]) -> list[str]:
    shown = [error.message for error in errors[:_ERRORS_SHOWN]]
    if len(errors) > _ERRORS_SHOWN:
        shown.append(f"and {len(errors) - _ERRORS_SHOWN} more")
    return shown


def sort_out(
    folder: BackendFolder, readings: Sequence[Reading | BadImageError | BadCaptionError]
) -> tuple[list[Reading], Broken | None]:
    """The images that can be used, and the others; None where there are no others."""
    good = [each for each in readings if isinstance(each, Reading)]
    errors = [each for each in readings if not isinstance(each, Reading)]
    if not errors:
        return good, None
    broken = Broken(
        backend=folder.backend, place=str(folder.folder), images=len(readings), errors=errors
    )
    return good, broken


def _check_name(path: str) -> None:
    """Raise BadImageError for a name that is not text: a plan could not hold it."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = path.encode(errors="backslashreplace").decode()
        message = f"{shown}: its name is not text in UTF-8; rename it"
        raise BadImageError(message, "bad_name") from error


def _count(paths: Sequence[str], what: str) -> str:
    return f"1 {what} is" if len(paths) == 1 else f"{len(paths)} {what}s are"
