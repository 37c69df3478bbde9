"""Why an import waits, fails or is rejected, in words for its tenant."""

from typing import Final

from services.domain.errors import Problem
from services.store.imports import Import
from trainer_core.process.import_requests import FetchReply

MAX_PICTURES: Final = 50_000
"""With their captions they are as many files as a dataset may have."""
_TRIES_OF_PASSING: Final = 3
"""A portion of which most rows could not be fetched is tried so often where that may pass."""
UNEXPECTED: Final = (
    "The service failed several times in a row while it imported this dataset. This is a fault of "
    "the service. Import it again."
)


def unreachable(message: str) -> str:
    return f"The source could not be reached for about half an hour: {message}. Import it again."


def failed_here(message: str) -> str:
    return (
        f"The service failed several times to fetch it: {message} Import it again later, or fetch "
        "it on your machine with `reverie datasets push CONFIG --backend ID`."
    )


def lost(message: str) -> str:
    return (
        f"The process that fetches this source ended several times: {message}. `reverie datasets "
        "push CONFIG --backend ID` fetches it on your machine."
    )


def should_wait(work: Import, reply: FetchReply) -> bool:
    """Whether most rows could not be fetched, for reasons that may pass, such as the network."""
    passing = sum(row.may_pass for row in reply.left_out)
    others = len(reply.left_out) - passing + sum(file.media == "image" for file in reply.files)
    return passing > others and work.failures <= _TRIES_OF_PASSING


def problem_of_use(work: Import, *, is_last: bool) -> Problem | None:
    """Why the import does not go on: too little of the source can be used, or it has too much.

    The bound is that of a folder of pictures: where more than half is left out, it is the wrong
    source, and training on the rest would be money lost.
    """
    named = "; ".join(row["message"] for row in work.left_out_rows[:3])
    total = work.rows_total if work.rows_total is not None else work.rows_done
    if work.pictures > MAX_PICTURES:
        message = (
            f"It has more than {MAX_PICTURES:,} usable pictures, the most that a dataset may have: "
            "set source_max_rows, or import its splits as datasets of their own."
        )
        return Problem(pointer="", code="too_many_pictures", message=message)
    if work.left_out > max(work.pictures, total / 2) or (is_last and work.left_out > work.pictures):
        message = (
            f"{work.left_out:,} of {total:,} rows cannot be used, which is more than half, such as "
            f"{named}. Mend the source and import it again."
        )
        return Problem(pointer="", code="mostly_unusable", message=message)
    if is_last and work.pictures == 0:
        return Problem(pointer="", code="no_picture", message="The source has no usable picture.")
    return None
