"""What a new dataset is fetched from: the checks before its import."""

import json
from collections.abc import Iterator
from typing import Final

from services.api.datasets.shapes import DatasetRequest
from services.domain.errors import Problem
from trainer_core.config.simpletuner.remote_sources import remote_source

_MAX_SOURCE_CHARACTERS: Final = 65_536
"""It is part of each answer that shows the dataset. An object of multidatabackend.json has some
hundred."""


def about_source(request: DatasetRequest) -> Iterator[Problem]:
    """What is wrong with the source of a dataset, or with what is given beside it."""
    if request.source is None:
        if request.csv is not None:
            message = "It is the list of a source of type csv, and there is no source."
            yield Problem(pointer="/csv", code="refused", message=message)
        return
    for name, is_given in (
        ("files", bool(request.files)),
        ("removed", bool(request.removed)),
        ("based_on", request.based_on is not None),
    ):
        if is_given:
            message = (
                "A dataset with a source has the files that are fetched from it, and no others."
            )
            yield Problem(pointer=f"/{name}", code="refused", message=message)
    if len(json.dumps(request.source)) > _MAX_SOURCE_CHARACTERS:
        message = f"A source may have {_MAX_SOURCE_CHARACTERS:,} characters as JSON."
        yield Problem(pointer="/source", code="bad_value", message=message)
        return
    found = remote_source(request.source, with_list=request.csv is not None)
    for each in found.problems:
        yield Problem(pointer=f"/source{each.pointer}", code=each.code, message=each.message)
