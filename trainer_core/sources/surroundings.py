"""Where sources are fetched to, what describes them, and what marks them as complete."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trainer_core.config.simpletuner.source_types import PictureSource
from trainer_core.paths import find_file, places_of
from trainer_core.sources.errors import SourceError
from trainer_core.sources.places import Complete, SourcePlace
from trainer_core.sources.rows import Tally
from trainer_core.web.public_addresses import Network


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Where sources are fetched to, and what they may reach."""

    root: Path
    """The folders of all sources."""
    folders: Sequence[Path]
    """A relative path of a file on this machine is tried from each of these."""
    allowed: Sequence[Network] = ()
    """Networks that addresses in lists and of buckets may lead to although they are not public."""
    takes_own_keys: bool = True
    """Whether a source without credentials in its configuration is read with those of this machine:
    what boto3 finds in the environment and its files. A service has to say False."""


def finished(place: SourcePlace, tally: Tally, extra: Sequence[str]) -> Complete:
    """Record that everything is there that can be."""
    complete = Complete(
        pictures=tally.pictures, left_out=tally.left_out, notes=(*tally.note(), *extra)
    )
    if complete.pictures:  # else the next try begins anew
        place.finish(complete)
    return complete


def described(source: PictureSource) -> dict[str, Any]:
    """What is fetched, without secrets, which are what no text of the place shows."""
    facts = asdict(source)
    for each in fields(source.place):
        if not each.repr:
            del facts["place"][each.name]
    return {"type": type(source.place).__name__, **facts}


def local_file(name: str, option: str, folders: Sequence[Path]) -> Path:
    """A file on this machine that an option names; raises SourceError, which lists the places."""
    if (file := find_file(name, folders)) is not None:
        return file.absolute()
    tried = ", ".join(str(place)[:300] for place in places_of(name, folders))
    raise SourceError(f"{option} names {name[:200]}, which is in none of these places: {tried}")
