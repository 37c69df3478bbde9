"""The contact sheet of a local run: ``samples/contact-sheet.png``, with all its pictures so far."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from trainer_core.config.plan import Pictures, Plan, Shown
from trainer_core.disk import writing
from trainer_core.painting.contact_sheet import SHEET, Column, Picture, contact_sheet, headings
from trainer_core.painting.picture_text import plan_digest_of
from trainer_core.process.events import Event, Listener
from trainer_core.whole_file import draft_of

if TYPE_CHECKING:
    from trainer_core.validation.pictures import Picture as RunPicture


def contact_sheets(plan: Plan, output_dir: Path) -> Listener:
    """Writes the sheet anew once the pictures of a step are made; gets every event."""
    is_due = False

    def listen(event: Event) -> None:
        nonlocal is_due
        if event.name == "sample":
            is_due = is_due or "sha256" in event.data
        elif is_due and event.name in ("stage", "stopped", "failed", "finished"):
            is_due = False
            write_contact_sheet(plan, output_dir)

    return listen


def write_contact_sheet(plan: Plan, output_dir: Path) -> None:
    """Write the sheet of the pictures below the output folder that this plan has.

    Raises DiskError, and BadImageError for a damaged picture.
    """
    pictures = plan.operation.pictures
    found = [] if pictures is None else _found(plan, pictures, output_dir)
    if not found:
        return
    sheet = contact_sheet(found, title=plan.operation.tracker_run_name)
    with writing(output_dir / SHEET), draft_of(output_dir / SHEET) as draft:
        draft.write_bytes(sheet)


def _found(plan: Plan, pictures: Pictures, output_dir: Path) -> list[Picture]:
    from trainer_core.validation.pictures import (  # noqa: PLC0415 - imports torch
        FOLDER,
        pictures_of,
        step_of,
    )

    named = headings(_column(each) for each in pictures_of(pictures, 0, "trained"))
    digest = plan.identity_digest()
    found = []
    for folder in sorted((output_dir / FOLDER).glob("step-*")):
        step = step_of(folder.name)
        if step is None:
            continue
        for shown in get_args(Shown):
            for each in pictures_of(pictures, step, shown):
                file = output_dir / each.path
                if plan_digest_of(file) == digest:  # an earlier run may have left pictures
                    name = named[_column(each)]
                    found.append(Picture(step=step, name=name, weights=shown, image=file))
    return found


def _column(picture: "RunPicture") -> Column:
    size = picture.size
    return Column(
        name=picture.prompt.name,
        width_px=size.width_px,
        height_px=size.height_px,
        seed=picture.seed,
    )
