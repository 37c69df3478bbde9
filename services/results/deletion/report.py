"""The report of a deletion: what went, what was kept and why, and what was checked afterwards."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

Report: TypeAlias = dict[str, Any]
"""As JSON: ``rows`` by table; ``objects``, number and bytes by folder; ``kept``, each with the
reason; ``shared``, numbers; ``checked``, objects found afterwards by folder."""

REPORT_BYTES: Final = 64 << 20
"""More than any report in the object store is long."""


def add_rows(report: Report, deleted: Mapping[str, int]) -> None:
    """Count deleted rows, by table."""
    rows = report.setdefault("rows", {})
    for table, count in deleted.items():
        rows[table] = rows.get(table, 0) + count


def add_objects(report: Report, objects: Sequence[tuple[str, int]]) -> None:
    """Count deleted objects by the folder of the tenant in which they were.

    Args:
        objects: key and size in bytes of each.
    """
    for key, size_bytes in objects:
        add_folder(report, key.split("/")[2], num_objects=1, size_bytes=size_bytes)


def add_folder(report: Report, folder: str, *, num_objects: int, size_bytes: int) -> None:
    """Count deleted objects of one folder."""
    counted = report.setdefault("objects", {}).setdefault(
        folder, {"num_objects": 0, "size_bytes": 0}
    )
    counted["num_objects"] += num_objects
    counted["size_bytes"] += size_bytes


def has_folder(report: Report, folder: str) -> bool:
    """Whether deleted objects of this folder are counted already."""
    return folder in report.get("objects", {})


def keep(report: Report, what: str, id_: str, *, place: str, reason: str) -> None:
    """Tell what was not deleted; again does nothing."""
    kept = report.setdefault("kept", [])
    entry = {"what": what, "id": id_, "place": place, "reason": reason}
    if entry not in kept:
        kept.append(entry)


def keep_shared(report: Report, what: str, number: int) -> None:
    """Count what was not deleted because it belongs to others of the tenant, too."""
    shared = report.setdefault("shared", {})
    shared[what] = shared.get(what, 0) + number


def add_uploads(report: Report, number: int) -> None:
    """Count uploads in parts that were ended."""
    if number:
        report["uploads_ended"] = report.get("uploads_ended", 0) + number
