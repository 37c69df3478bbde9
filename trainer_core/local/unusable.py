"""Images that cannot be encoded: noted in the cache, so that the next run knows it at its start."""

import contextlib
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from trainer_core.base_models.describe import BaseModel
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex, Picture
from trainer_core.data.indexing import build_index
from trainer_core.errors import BadImageError
from trainer_core.hidream.quiet import quieten_libraries
from trainer_core.local.data import LocalData
from trainer_core.local.folder import replace_file
from trainer_core.progress import Reporter

_NAME: Final = "unusable.json"
_NAMED: Final = 20


class UnusableImagesError(BadImageError):
    """Images that cannot be encoded; all other entries are in the cache."""

    def __init__(self, reasons: Mapping[str, str], index: DataIndex) -> None:
        """``reasons``: by the digests of entries of the index."""
        paths = (
            f"{entry.content.path}: {reasons[entry.digest]}"
            for entry in index.entries
            if isinstance(entry.content, Picture) and entry.digest in reasons
        )
        super().__init__("; ".join(islice(paths, _NAMED)))
        self.reasons = reasons


def noted_unusable(cache: Path) -> dict[str, str]:
    """Digest of each entry that a run before could not encode → why; empty where none is noted."""
    with contextlib.suppress(OSError, ValueError):
        read = json.loads((cache / _NAME).read_bytes())
        if isinstance(read, dict):
            return {digest: reason for digest, reason in read.items() if isinstance(reason, str)}
    return {}


def usable_index(
    plan: Plan, base: BaseModel, data: LocalData, cache: Path, reporter: Reporter
) -> DataIndex:
    """The data of a run, without what cannot be encoded as far as that is known.

    Known are crops on which a mask is black, since masks are encoded here, and what a run before
    has noted. Raises PlanError, or what ``fill_masks`` does.
    """
    unusable = noted_unusable(cache)
    while True:  # each turn without masks that an earlier one found to be black
        index = build_index(
            plan, data.items, base.transformer_config, base=base.folder, unusable=unusable
        )
        if all(each.mask is None for each in index.samples):
            return index
        quieten_libraries()  # they print when they are imported
        from trainer_core.local.cache import fill_masks  # noqa: PLC0415 - imports torch

        try:
            fill_masks(cache, index, data.images, reporter)
        except UnusableImagesError as error:
            unusable |= error.reasons
        else:
            return index


def note_unusable(cache: Path, reasons: Mapping[str, str]) -> None:
    """Add to what is noted; raises DiskError."""
    replace_file(cache / _NAME, json.dumps({**noted_unusable(cache), **reasons}))
