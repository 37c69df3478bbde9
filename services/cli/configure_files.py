"""Writes what `reverie configure` proposes: all of it or nothing."""

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from services.cli.configure_layout import MASK_LINKS, PICTURE_LINKS
from services.cli.configure_proposal import Proposal
from services.cli.connection import CommandError

_LINK_FOLDERS: Final = (PICTURE_LINKS, MASK_LINKS)


def text_of(content: Any) -> str:
    """A file as it is written: JSON in ASCII, which every reader takes."""
    return json.dumps(content, indent=4) + "\n"


def replaced_by(proposal: Proposal, output: Path) -> list[str]:
    """Names of the files, and of folders of links, that are in the output folder and differ.

    Raises CommandError where a file would replace a folder, or a folder of links files that are no
    links.
    """
    for name in proposal.files:
        if (output / name).is_dir() and not (output / name).is_symlink():
            raise CommandError(
                f"{output / name} is a folder, and a file goes there: move it away, or take "
                "another --output"
            )
    names = [
        name
        for name, content in proposal.files.items()
        if os.path.lexists(output / name) and not _holds(output / name, text_of(content))
    ]
    for name in _LINK_FOLDERS:
        wanted, place = _links_in(proposal, name, output), output / name
        if wanted and os.path.lexists(place) and _links_of(place) != wanted:
            names.append(f"{name}/")
    return names


def write(proposal: Proposal, output: Path) -> None:
    """Write all files and links, config.json last; each appears whole or not at all.

    Raises CommandError where the folder cannot be written to.
    """
    drafts: dict[Path, Path] = {}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in _LINK_FOLDERS:
            links = _links_in(proposal, name, output)
            if links:
                drafts[output / name] = draft = _draft_of(output / name)
                _make_links(draft, links)
        for name, content in proposal.files.items():
            drafts[output / name] = draft = _draft_of(output / name)
            draft.write_text(text_of(content), encoding="ascii")
        with _uninterrupted():
            for place, draft in drafts.items():
                if draft.is_dir() and place.exists():
                    shutil.rmtree(place)
                draft.replace(place)
    except OSError as error:
        raise CommandError(f"{output} cannot be written to: {error.strerror}") from error
    finally:
        for draft in drafts.values():
            _delete(draft)


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_text(encoding="ascii") == text
    except (OSError, UnicodeDecodeError):
        return False


def _links_in(proposal: Proposal, folder: str, output: Path) -> dict[str, str]:
    """Path in one folder of links → what its link says.

    A target beside the output folder is written from the link, so that both can be moved together.
    """
    links = {}
    for name, target in proposal.links.items():
        first, _, inside = name.partition("/")
        if first == folder:
            says = str(target)
            if target.is_relative_to(output.parent):
                says = os.path.relpath(target, (output / name).parent)
            links[inside] = says
    return links


def _links_of(place: Path) -> dict[str, str]:
    """The links in a folder; raises CommandError where it holds anything else."""
    links = {}
    for parent, _, names in os.walk(place, followlinks=False):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                raise CommandError(
                    f"{path} is no link: links to the pictures would replace {place}; move it away"
                )
            links[path.relative_to(place).as_posix()] = str(path.readlink())
    if not place.is_dir() or place.is_symlink():
        raise CommandError(f"{place} is no folder, and links to the pictures go there")
    return links


def _make_links(draft: Path, links: Mapping[str, str]) -> None:
    for name, says in links.items():
        link = draft / name
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(says)
        except OSError as error:
            raise CommandError(
                f"{draft.parent}: no link can be made there ({error.strerror}); take an --output "
                "on another disk, or move away what cannot be used"
            ) from error


def _draft_of(place: Path) -> Path:
    draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    _delete(draft)
    return draft


def _delete(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft)
    else:
        draft.unlink(missing_ok=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, so that either none or all of the files are replaced."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
