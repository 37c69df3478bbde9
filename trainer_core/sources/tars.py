"""The samples of a tar file: pictures with the texts and metadata that share their keys.

Only headers are read by ``tarfile``; nothing is extracted, and the bytes of a sample are read where
its header says they are. Sources: the conventions of WebDataset and of webshart.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from trainer_core.config.simpletuner.source_types import CaptionColumns
from trainer_core.data.captions import MAX_CAPTION_BYTES, decode_caption
from trainer_core.data.formats import IMAGE_SUFFIXES
from trainer_core.errors import BadCaptionError
from trainer_core.in_words import counted
from trainer_core.sources.captions import captions_of_row
from trainer_core.sources.errors import RowError
from trainer_core.sources.rows import Row, own_key, refuse, safe_key, suffix_in
from trainer_core.sources.shards import OpenShard, Shard

_MAX_HEADER_BYTES: Final = 1 << 20
"""Of what describes one member: a long name, or the records of pax."""
_MAX_JSON_BYTES: Final = 4 << 20
_MAX_NAME_CHARACTERS: Final = 4096
_PIECE_BYTES: Final = 1 << 20
_COMPRESSED: Final = re.compile(rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd")
"""How files of gzip, bzip2, xz and zstd begin; a tar file begins with a member's name."""
_CAPTION_FIELDS: Final = CaptionColumns(
    columns=(
        *("caption", "captions", "text", "txt", "description", "descriptions", "prompt"),
        "alt_text",
    )
)
"""Of a sample's JSON, each with a text or a list of texts, as in webshart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A plain file in a tar file."""

    name: str
    offset: int
    """Of its first byte."""
    size_bytes: int


@dataclass(kw_only=True, slots=True)
class Sample:
    """A picture, and what has its key."""

    key: str
    image: Member
    text: Member | None = None
    metadata: Member | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TarRules:
    """How the names and texts of a tar file are read."""

    has_first_dots: bool
    """A key ends at the first dot of a name; else at the last one."""
    are_whole_texts: bool
    wants_captions: bool
    max_file_bytes: int
    columns: CaptionColumns | None = None
    """Columns of a sample as the Hub has them, such as ``txt`` or ``json.caption``; None: captions
    come from the first of the index, the text and the metadata that has some."""
    image: str | None = None
    """What is behind the key in the names of the pictures, such as ``jpg``; None: any picture."""


def open_tar(
    shard: Shard,
    file: Path,
    key: str,
    rules: TarRules,
    indexed: Mapping[str, Any],
) -> OpenShard:
    """The rows of a tar file.

    Args:
        shard: names it.
        file: it, on this disk.
        key: what the keys of its rows begin with.
        rules: how it is read.
        indexed: member → what its index has as captions.
    """
    try:
        content = _Content(file)
        samples, fault = _samples_of(file, rules)
    except OSError as error:
        return missing_tar(shard, str(error.strerror))

    def rows() -> Iterator[tuple[int, Row]]:
        taken: set[str] = set()
        for number, sample in enumerate(samples):
            yield number, _row(number, sample, taken)
        if fault:
            yield len(samples), _row_of_fault(shard, fault)

    def _row(number: int, sample: Sample, taken: set[str]) -> Row:
        name = sample.image.name
        captions: tuple[str, ...] | str | None = None
        write = partial(_write, content, sample.image, rules.max_file_bytes)
        try:
            captions = _captions(content, sample, rules, indexed)
        except (RowError, BadCaptionError) as error:
            write = partial(refuse, str(error))
        return Row(
            key=f"{key}/{own_key(safe_key(sample.key + suffix_in(name)), name, taken)}",
            token=f"{shard.oid}:{number}",
            suffix=suffix_in(name),
            label=f"{shard.name}, {name}",
            captions=captions,
            write=write,
        )

    return OpenShard(
        num_rows=len(samples) + bool(fault),
        rows=rows(),
        fault=f"{shard.name}: {fault}" if fault else "",
    )


def missing_tar(shard: Shard, why: str) -> OpenShard:
    """A tar file that is not there: one row, which says why."""
    rows = iter([(0, _row_of_fault(shard, why))])
    return OpenShard(num_rows=1, rows=rows, fault=f"{shard.name}: {why}")


def _row_of_fault(shard: Shard, why: str) -> Row:
    return Row(
        key="_",
        token="",
        suffix="",
        label=shard.name,
        captions=None,
        write=partial(refuse, why),
    )


def shard_keys(names: Iterable[str]) -> dict[str, str]:
    """Name of a tar file → what the keys of its rows begin with, a folder of its own."""
    taken: set[str] = set()
    return {name: own_key(safe_key(name).replace("/", "-"), name, taken) for name in names}


def shard_of(name: str, token: str, size_bytes: int) -> Shard:
    """A tar file as a shard; one of another name is another one, also with the same bytes."""
    facts = f"{name}\0{token}"
    oid = hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return Shard(name=name, oid=oid, size_bytes=size_bytes)


def _samples_of(file: Path, rules: TarRules) -> tuple[list[Sample], str]:
    """The samples in the order of their pictures, and why there are no more; empty: it is whole."""
    images: dict[str, Member] = {}
    texts: dict[str, Member] = {}
    metadata: dict[str, Member] = {}
    fault = ""
    try:
        for member in _members(file):
            key, kind = _split_name(member.name, has_first_dots=rules.has_first_dots)
            if kind == "txt":
                texts.setdefault(key, member)
            elif kind == "json":
                metadata.setdefault(key, member)
            elif f".{kind.rpartition('.')[2]}" in IMAGE_SUFFIXES and _is_picture_of(kind, rules):
                found = images.get(key)
                if found is None or (_is_longer(found, key) and "." not in kind):
                    images[key] = member
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        said = str(error)[:100] or type(error).__name__
        before = counted(len(images), "picture")
        fault = f"no whole tar file ({said}), with {before} before the fault: pack it again"
    samples = [
        Sample(key=key, image=image, text=texts.get(key), metadata=metadata.get(key))
        for key, image in images.items()
    ]
    return samples, fault


def _is_picture_of(kind: str, rules: TarRules) -> bool:
    return rules.image is None or kind == rules.image


def _is_longer(member: Member, key: str) -> bool:
    """Whether the name has more behind its key than a suffix, such as ``.mask.png``."""
    return "." in member.name[len(key) + 1 :]


def _members(file: Path) -> Iterator[Member]:
    """The plain files with names that stay in a folder; raises tarfile's errors and ValueError."""
    size_bytes = file.stat().st_size
    if _is_compressed(file):
        raise tarfile.ReadError("it is compressed")
    with file.open("rb") as opened, tarfile.open(fileobj=_Headers(opened), mode="r:") as tar:
        last = -1
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
            if info.offset <= last or info.size < 0:
                raise tarfile.ReadError("a header leads back")
            last = info.offset
            if info.offset_data + info.size > size_bytes:
                raise tarfile.ReadError("it ends early")
            name = info.name.removeprefix("./")
            if info.isreg() and not info.issparse() and _is_inside(name):
                yield Member(name=name, offset=info.offset_data, size_bytes=info.size)
        opened.seek(tar.offset)  # tarfile takes any header that it cannot read for the end
        if any(opened.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError("it ends early, or a header is damaged")
        if any(piece.strip(b"\0") for piece in iter(partial(opened.read, _PIECE_BYTES), b"")):
            raise tarfile.ReadError("there is more behind its end, as in joined tar files")


def _is_compressed(file: Path) -> bool:
    with file.open("rb") as opened:
        return _COMPRESSED.match(opened.read(10)) is not None


class _Content:
    """The bytes of a tar file, which several threads may read, also when its name is gone.

    It is deleted as soon as its last row is named; the rows before may be written then.
    """

    def __init__(self, file: Path) -> None:
        self._fd = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._fd)

    def pieces(self, member: Member) -> Iterator[bytes]:
        at, end = member.offset, member.offset + member.size_bytes
        while at < end and (piece := os.pread(self._fd, min(_PIECE_BYTES, end - at), at)):
            yield piece
            at += len(piece)

    def read(self, member: Member) -> bytes:
        return b"".join(self.pieces(member))


class _Headers(io.RawIOBase):
    """A file of which tarfile reads headers only, so that no header makes it read much."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header is too long")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in a folder, and not hidden."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and len(name) <= _MAX_NAME_CHARACTERS
        and not name.startswith("/")
        and not any(part.startswith(".") or part == "__MACOSX" for part in parts)
    )


def _split_name(name: str, *, has_first_dots: bool) -> tuple[str, str]:
    """The key of a name with its folders, and what is behind it, in lower case."""
    folder, slash, leaf = name.rpartition("/")
    if has_first_dots:
        stem, _, kind = leaf.partition(".")
    else:
        stem, _, kind = leaf.rpartition(".")
        stem, kind = (stem, kind) if stem else (leaf, "")
    return f"{folder}{slash}{stem}", kind.lower()


def _captions(
    content: _Content, sample: Sample, rules: TarRules, indexed: Mapping[str, Any]
) -> tuple[str, ...] | str | None:
    """The captions of a sample as of a ``Row``; raises RowError and BadCaptionError."""
    if not rules.wants_captions:
        return None
    if rules.columns is not None:
        row: dict[str, Any] = {}
        if sample.text is not None:
            row["txt"] = _text_in(content, sample.text)
        if sample.metadata is not None:
            row["json"] = _json_in(content, sample.metadata)
        return captions_of_row(row, rules.columns)
    if (known := indexed.get(sample.image.name)) is not None:
        found = captions_of_row({"captions": known}, _CAPTION_FIELDS)
        if found:
            return found
    if sample.text is not None:
        text = _text_in(content, sample.text)
        if text.strip():
            return (text,) if rules.are_whole_texts else text
    if sample.metadata is not None:
        return captions_in_json(_json_in(content, sample.metadata))
    return ()


def captions_in_json(metadata: Any) -> tuple[str, ...]:
    """The captions in the metadata of a sample; none where it has no field of captions."""
    return captions_of_row(metadata, _CAPTION_FIELDS) if isinstance(metadata, dict) else ()


def _text_in(content: _Content, member: Member) -> str:
    if member.size_bytes > MAX_CAPTION_BYTES:
        raise RowError(f"{member.name}: {member.size_bytes:,} bytes are too many for captions")
    return decode_caption(content.read(member), name=member.name)


def _json_in(content: _Content, member: Member) -> Any:
    if member.size_bytes > _MAX_JSON_BYTES:
        raise RowError(f"{member.name}: {member.size_bytes:,} bytes are too many for metadata")
    try:
        return json.loads(content.read(member))
    except (ValueError, RecursionError) as error:
        raise RowError(f"{member.name} is no JSON: {str(error)[:100]}") from error


def _write(content: _Content, member: Member, max_file_bytes: int, to: Path) -> None:
    if member.size_bytes > max_file_bytes:
        raise RowError(
            f"{member.size_bytes:,} bytes, more than source_max_file_mb or max_file_size allows"
        )
    with to.open("wb") as target:
        target.writelines(content.pieces(member))
