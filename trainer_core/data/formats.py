"""Which files of a data folder are read, by their suffixes, and what the others are.

Read is every format that Pillow decodes by itself, and HEIC and JPEG XL through plugins. Source:
the formats that Pillow 13, pi-heif 1.4 and pillow-jxl-plugin 1.3 register; a test compares this
table with the installed versions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

CAPTION_SUFFIX: Final = ".txt"
ADAPTER_SUFFIX: Final = ".safetensors"

_READ: Final = (
    ("JPEG", ".jpg .jpeg .jpe .jfif .mpo"),
    ("PNG", ".png .apng"),
    ("WEBP", ".webp"),
    ("AVIF", ".avif .avifs"),
    ("HEIF", ".heic .heif .hif .heics .heifs"),
    ("JXL", ".jxl"),
    ("TIFF", ".tif .tiff"),
    ("BMP", ".bmp"),
    ("GIF", ".gif"),
    ("JPEG2000", ".jp2 .j2k .j2c .jpc .jpf .jpx"),
    ("PSD", ".psd"),
    ("DIB", ".dib"),
    ("ICO", ".ico"),
    ("CUR", ".cur"),
    ("ICNS", ".icns"),
    ("PPM", ".ppm .pgm .pbm .pnm .pfm"),
    ("QOI", ".qoi"),
    ("DDS", ".dds"),
    ("PCX", ".pcx"),
    ("DCX", ".dcx"),
    ("SGI", ".sgi .rgb .rgba .bw"),
    ("SUN", ".ras"),
    ("XBM", ".xbm"),
    ("XPM", ".xpm"),
    ("FLI", ".fli .flc"),
    ("MSP", ".msp"),
    ("PIXAR", ".pxr"),
    ("GBR", ".gbr"),
    ("BLP", ".blp"),
    ("FTEX", ".ftc .ftu"),
    # These have no mark at their start, so that they are tried last.
    ("PCD", ".pcd"),
    ("TGA", ".tga .icb .vda .vst"),
)
FORMATS: Final = tuple(name for name, _ in _READ)
"""Pillow's names of the formats, in the order in which they are tried. The content decides, not the
suffix."""
IMAGE_SUFFIXES: Final = tuple(suffix for _, suffixes in _READ for suffix in suffixes.split())
"""In lower case."""
USUAL_SUFFIXES: Final = ".jpg .png .webp .avif .heic .jxl .tiff .bmp .gif"
"""For a message."""


def usual_suffix(name: str) -> str:
    """The first suffix of a format of ``FORMATS``; an MPO is a JPEG with further pictures."""
    return dict(_READ)["JPEG" if name == "MPO" else name].split()[0]


@dataclass(frozen=True, slots=True)
class Unread:
    """A kind of files that are not read."""

    one: str
    many: str
    way_out: str
    """What to do about them; empty where there is nothing to do."""


_SAVE: Final = "save pictures as JPEG or PNG"
_CAPTIONS: Final = "captions are read from .txt files beside the pictures"

RAW: Final = Unread("camera raw file", "camera raw files", _SAVE)
DRAWING: Final = Unread("drawing", "drawings", _SAVE)
PROJECT: Final = Unread("file of an image editor", "files of image editors", _SAVE)
MEASUREMENT: Final = Unread("file of measurements", "files of measurements", _SAVE)
VIDEO: Final = Unread("video", "videos", "save frames of videos as JPEG or PNG")
ARCHIVE: Final = Unread("archive", "archives", "unpack archives")
OTHER_CAPTION: Final = Unread("other caption file", "other caption files", _CAPTIONS)
TABLE: Final = Unread("table", "tables", _CAPTIONS)
OTHER: Final = Unread("other file", "other files", "")

_UNREAD: Final = (
    (
        RAW,
        (
            ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf "
            ".pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
        ),
    ),
    # Pillow reads EPS by running Ghostscript, and metafiles on Windows only.
    (DRAWING, ".svg .svgz .eps .ps .ai .pdf .cdr .wmf .emf .drawio .dxf"),
    (PROJECT, ".psb .xcf .kra .ora .clip .procreate .afphoto .afdesign .sai .sai2 .blend .im"),
    # Numbers without a black and a white.
    (MEASUREMENT, ".exr .hdr .fits .fit .h5 .hdf .hdf5 .grib .bufr .dcm .nii .iim"),
    (
        VIDEO,
        ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .mts .m2ts .gifv",
    ),
    (ARCHIVE, ".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar .cbz .cbr"),
    (OTHER_CAPTION, ".caption .captions .cap .tag .tags .text"),
    (TABLE, ".csv .tsv .json .jsonl .ndjson .parquet .xls .xlsx .ods .xml .yaml .yml"),
)
UNREAD_SUFFIXES: Final[Mapping[str, Unread]] = MappingProxyType(
    {suffix: kind for kind, suffixes in _UNREAD for suffix in suffixes.split()}
)
_OF_SYSTEMS: Final = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
"""Files that systems write into every folder, in lower case."""


def suffix_of(path: PurePosixPath) -> str:
    """The suffix in lower case."""
    return path.suffix.lower()


def unread_kind(path: str) -> Unread | None:
    """What a file is that is neither an image nor a caption; None where nobody would miss it."""
    name = PurePosixPath(path)
    if name.name.lower() in _OF_SYSTEMS:
        return None
    return UNREAD_SUFFIXES.get(suffix_of(name), OTHER)


_HEIC: Final = "a HEIC picture"
_AVIF: Final = "an AVIF picture"
_JPEG_XL: Final = "a JPEG XL picture"
READ_KINDS: Final = frozenset({_HEIC, _AVIF, _JPEG_XL})
"""Of ``content_kind``: such a file is read if it is whole."""
_MP4_BRANDS: Final = (
    (b"heic heix heim heis hevc hevx mif1 msf1", _HEIC),
    (b"avif avis", _AVIF),
    (b"crx ", "a camera raw file"),
)
_STARTS: Final = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "a PostScript drawing"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xff\x0a", _JPEG_XL),
    (b"\x00\x00\x00\x0cJXL ", _JPEG_XL),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"8BPS\x00\x02", "a PSB file"),
    (b"gimp xcf", "a GIMP file"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose content was not fetched"),
)
_MARKUP: Final = (
    (b"<svg", "an SVG drawing"),
    (b"<html", "a web page"),
    (b"<!doctype html", "a web page"),
)


def content_kind(head: bytes) -> str | None:
    """What a file that Pillow does not read is, from its first 512 bytes; None if that is unclear.

    Source: the file signatures that the formats' specifications name.
    """
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return next((kind for brands, kind in _MP4_BRANDS if brand in brands), "a video")
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for start, kind in _MARKUP if start in text[:256]), None)
