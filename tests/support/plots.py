"""Reads the files that trackers wrote, without their servers."""

import struct
from collections.abc import Iterator
from pathlib import Path

Points = dict[str, list[tuple[int, float]]]
"""Name of a scalar → its (step, value), in the order of writing."""


def tensorboard_points(folder: Path) -> Points:
    """Of every event file below ``folder``; a purge drops what the files before it held above."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    points: Points = {}
    for file in sorted(folder.rglob("events.out.tfevents.*"), key=lambda f: f.stat().st_mtime_ns):
        for record in _records(file.read_bytes()):
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                points = {
                    name: [point for point in each if point[0] < event.step]
                    for name, each in points.items()
                }
            for value in event.summary.value:
                points.setdefault(value.tag, []).append((event.step, value.simple_value))
    return points


def _records(body: bytes) -> Iterator[bytes]:
    """TFRecord: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    at = 0
    while at < len(body):
        (length,) = struct.unpack_from("<Q", body, at)
        yield body[at + 12 : at + 12 + length]
        at += 16 + length


def wandb_runs(folder: Path) -> list[tuple[dict[str, str], Points]]:
    """Facts (id, project, name) and points of every offline run below ``folder``, oldest first.

    Ends this process's wandb service: a run is over before the service has written its file.
    """
    import json

    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()
    runs = []
    for file in sorted(folder.rglob("*.wandb"), key=lambda f: f.stat().st_mtime_ns):
        facts: dict[str, str] = {}
        points: Points = {}
        for data in _log_records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                run = record.run
                facts = {"id": run.run_id, "project": run.project, "name": run.display_name}
            if record.HasField("history"):
                row = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                for name, value in row.items():
                    if name != "step" and not name.startswith("_"):
                        points.setdefault(name, []).append((row["step"], value))
        runs.append((facts, points))
    return runs


_BLOCK = 32768
_FILE_HEADER = 7
_RECORD_HEADER = 7


def _log_records(body: bytes) -> Iterator[bytes]:
    """LevelDB's log: checksum (4 bytes), length (2), kind (1); kinds 1 and 4 end a record."""
    at, held = _FILE_HEADER, b""
    while at + _RECORD_HEADER <= len(body):
        left = _BLOCK - at % _BLOCK
        if left < _RECORD_HEADER:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", body, at)
        at += _RECORD_HEADER
        held += body[at : at + length]
        at += length
        if kind in (1, 4):
            yield held
            held = b""
