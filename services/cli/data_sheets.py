"""`reverie validate --contact-sheet`: pictures of what the model will see."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from services.cli import output
from services.cli.connection import CommandError

if TYPE_CHECKING:
    from services.cli.data_section import DataSection


def one_page_or_pages(path: Path | None) -> Path | None:
    """Check that a name is that of a page or of a folder, before anything is read."""
    from trainer_core.data.report.contact_sheet import SHEET_SUFFIXES, is_one_page

    if path is not None and path.suffix and not is_one_page(path) and not path.is_dir():
        pages = ", ".join(SHEET_SUFFIXES)
        raise typer.BadParameter(f"{path} is neither a file in {pages} nor a folder")
    return path


def check_place(target: Path, folders: Mapping[str, Path]) -> None:
    """Raise CommandError where the target is in a folder of images; ``folders`` by backend."""
    here = target.expanduser().resolve()
    for backend, folder in folders.items():
        if here.is_relative_to(folder.resolve()):
            raise CommandError(
                f"--contact-sheet: {target} is in {folder}, the images of {backend}, and would be "
                "one of them in the next run; name a place outside of it"
            )


def draw_contact_sheet(target: Path, pictures: "DataSection") -> list[Path]:
    """Write the pages, and tell where they are; none where no image is used.

    Raises OSError where the target is not writable.
    """
    from trainer_core.data.report.contact_sheet import (
        PER_PAGE,
        is_one_page,
        write_contact_sheet,
    )
    from trainer_core.data.report.shown import few_of

    if not pictures.shown:
        output.print_note("no contact sheet: there is no image to draw")
        return []
    used = sum(survey.buckets.total() for survey in pictures.surveys)
    shown = few_of(pictures.shown, PER_PAGE) if is_one_page(target) else pictures.shown
    pages = write_contact_sheet(target.expanduser(), shown, used)
    for page in pages:
        output.print_note(f"contact sheet        {page}")
    return pages
