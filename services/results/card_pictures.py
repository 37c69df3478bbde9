"""Pictures that a run made while it trained, for its model repository and its card."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.keys import sample_key
from services.objects.local_files import sha256_of
from services.objects.port import ObjectStore
from services.store.run_samples import Sample
from trainer_core.errors import BadImageError
from trainer_core.painting.contact_sheet import (
    SHEET,
    Column,
    Picture,
    contact_sheet,
    headings,
    shown_of,
)

log = structlog.get_logger(__name__)

MAX_BYTES: Final = 256 << 20
"""Of the pictures that are read for one publication."""
MAX_PICTURES: Final = 64
"""Published beside the contact sheet: those of the newest step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardPictures:
    """What a repository shows of a run's pictures."""

    sheet: bytes
    """The contact sheet, a PNG."""
    prompts: Mapping[str, str]
    """Name → text of those on the sheet."""
    newest: Sequence[Path]
    """Files of the newest step, each in a folder that is named by the step."""


def card_pictures(
    objects: ObjectStore, tenant_id: str, samples: Sequence[Sample], folder: Path
) -> CardPictures | None:
    """Fetch what a card shows into ``folder``; None where there is nothing to show.

    A picture that is missing or damaged is left out: a publication does not fail for it.

    Args:
        objects: has the files of the rows.
        tenant_id: whose run it is.
        samples: of one run, in the order in which they were made.
        folder: a new one.

    Raises ObjectStoreError where the store does not answer, and OSError.
    """
    named = headings(_column(each) for each in samples)
    pictures = {
        folder / each.path: Picture(
            step=each.step,
            name=named[_column(each)],
            weights=each.weights,
            image=folder / each.path,
        )
        for each in samples
    }
    wanted = {picture.image for picture in shown_of(pictures.values())}
    fetch = partial(_fetch, objects, tenant_id)
    left_bytes, fetched = MAX_BYTES, []
    # The base's and the newest are the last to be left out.
    for sample in sorted(samples, key=lambda each: (each.weights != "base", -each.step)):
        file = folder / sample.path
        if file in wanted and sample.size_bytes <= left_bytes and fetch(sample, file):
            left_bytes -= sample.size_bytes
            fetched.append(file)
    shown = [picture for file, picture in pictures.items() if file in fetched]
    if not shown:
        return None
    try:
        sheet = contact_sheet(shown)
    except BadImageError as error:
        log.warning("contact_sheet_not_drawn", reason=str(error))
        return None
    trained = [file for file in pictures if file in fetched and pictures[file].weights != "base"]
    newest = max((pictures[file].step for file in trained), default=0)
    return CardPictures(
        sheet=sheet,
        prompts={each.name: each.prompt or "" for each in samples if folder / each.path in fetched},
        newest=[file for file in trained if pictures[file].step == newest][:MAX_PICTURES],
    )


def put_pictures(repo: Path, pictures: CardPictures) -> dict[str, Any]:
    """Write them below ``repo``; what the card says of them."""
    (repo / SHEET).parent.mkdir(parents=True, exist_ok=True)
    (repo / SHEET).write_bytes(pictures.sheet)
    for file in pictures.newest:
        dest = repo / "samples" / file.parent.name / file.name
        dest.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, dest)
    return {"path": SHEET, "prompts": dict(pictures.prompts)}


def _column(sample: Sample) -> Column:
    return Column(
        name=sample.name,
        width_px=sample.width_px,
        height_px=sample.height_px,
        seed=sample.seed,
    )


def _fetch(objects: ObjectStore, tenant_id: str, sample: Sample, file: Path) -> bool:
    """Whether the file is there and is the one of the row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    key = sample_key(tenant_id, sample.run_id, sample.fence, sample.sha256)
    try:
        objects.get_to(key, file)
    except (ObjectMissingError, ObjectCorruptError) as error:
        log.warning("picture_not_fetched", key=key, error=str(error))
        return False
    if sha256_of(file) == sample.sha256:
        return True
    log.warning("picture_damaged", key=key)
    return False
