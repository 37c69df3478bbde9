"""Sources in tar files."""

import io
import ipaddress
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tests.support import buckets
from tests.support.file_server import OWN
from trainer_core.config.simpletuner.source_types import PictureSource, TarSource
from trainer_core.progress import SilentReporter
from trainer_core.sources.fetching import FetchedSource, fetch_source
from trainer_core.sources.surroundings import Surroundings


def tar_of(
    files: Mapping[str, bytes] | Sequence[tuple[str, bytes]], format_: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as opened:
        for name, body in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            opened.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def place_of(source: object, **keys: Any) -> TarSource:
    own = {"metadata": None, "subfolder": "", "has_first_dots": False, "are_whole_texts": False}
    return TarSource(source=str(source), **{**own, "max_file_bytes": None, **keys})


def source_of(place: TarSource, **options: Any) -> PictureSource:
    return PictureSource(place=place, **{"wants_captions": True, **options})


def get(
    tmp_path: Path,
    place: TarSource,
    reporter: SilentReporter | None = None,
    *,
    allowed: str = f"{OWN}/32",
    **options: Any,
) -> FetchedSource:
    around = Surroundings(
        root=tmp_path / "sources",
        folders=(tmp_path,),
        allowed=(ipaddress.ip_network(allowed),),
    )
    reporter = reporter or SilentReporter()
    return fetch_source("tars", source_of(place, **options), around, reporter)


def content(found: FetchedSource) -> dict[str, tuple[bytes, str]]:
    """Path of each picture without its suffix → its bytes and its captions."""
    pictures = buckets.content(found).items()
    return {PurePosixPath(path).with_suffix("").as_posix(): each for path, each in pictures}
