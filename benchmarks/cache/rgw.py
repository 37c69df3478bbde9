"""The case ``rgw``: records that are really stored, in Ceph RGW, read by ours alone.

Its daemon keeps objects in memory, so there are fewer where less than a third more is free.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from benchmarks.cache.bucket import Server
from benchmarks.cache.compare import OURS, STEP_S, Bench, Setting, figures, paced_figures
from benchmarks.cache.content import BUCKET, Content, made
from benchmarks.cache.objects import ours, size_of
from tests.support.rgw import RgwServer

_PROGRAM: Final = "radosgw"
_DEVICE: Final = "memstore_device_bytes = 4294967296"
_SPARE: Final = 4 / 3
_OTHER_BYTES: Final = 2 << 30


class _Rgw(RgwServer):
    """The server of the tests, with memory for more objects than they store."""

    def __init__(self, device_bytes: int) -> None:
        super().__init__()
        self._device_bytes = device_bytes

    def env(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
        }

    def get_bytes(self) -> int:
        """Bytes of all answers to GETs."""
        socket = self._folder / "client.rgw.asok"
        command = ["ceph", "--admin-daemon", str(socket), "perf", "dump"]
        done = subprocess.run(command, capture_output=True, check=True)
        return int(json.loads(done.stdout)["rgw"]["get_b"])

    def _write_config(self) -> str:
        fsid = super()._write_config()
        text = self._conf.read_text()
        assert _DEVICE in text, "the tests' server has another size now"
        self._conf.write_text(
            text.replace(_DEVICE, f"memstore_device_bytes = {self._device_bytes}")
        )
        return fsid


class _RgwEndpoint(Server):
    def __init__(self, rgw: _Rgw) -> None:
        super().__init__(rgw.s3.endpoint)
        self._rgw = rgw

    def sent_bytes(self) -> int:
        return self._rgw.get_bytes()


def rgw(setting: Setting, records: int) -> dict[str, Any]:
    """All figures of the case."""
    if shutil.which(_PROGRAM) is None:
        return {"skipped": f"{_PROGRAM} is not installed"}
    content = made(setting.data, "bf16")
    used = min(records, int((_free_bytes() - _OTHER_BYTES) / _SPARE / content.record_bytes))
    with _running(int(used * content.record_bytes * _SPARE)) as server:
        _upload(server, content, used)
        bench = Bench(setting, _RgwEndpoint(server), content, used, **server.env())
        steps = min(setting.steps, used)
        runs = [bench.measured(OURS, steps=steps) for _ in range(setting.rounds)]
        paced = bench.measured(OURS, steps=setting.paced_steps, step_s=STEP_S)
    return {
        "records": used,
        "asked_records": records,
        "record_bytes": content.record_bytes,
        **figures(runs),
        **paced_figures(paced),
        "scratch_bound_bytes": setting.limit_bytes,
    }


@contextmanager
def _running(device_bytes: int) -> Iterator[_Rgw]:
    server = _Rgw(device_bytes)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _upload(server: _Rgw, content: Content, records: int) -> None:
    client: Any = boto3.client(
        "s3",
        endpoint_url=server.s3.endpoint,
        region_name=server.s3.region,
        aws_access_key_id=server.s3.access_key,
        aws_secret_access_key=server.s3.secret_key,
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=BUCKET)
    with content.file.open("rb") as file:
        for key, pieces in ours(content, records).objects.items():
            body = bytearray()
            for piece in pieces:
                if isinstance(piece, bytes):
                    body += piece
                else:
                    file.seek(piece.offset_bytes)
                    body += file.read(piece.size_bytes)
            assert len(body) == size_of(pieces)
            client.put_object(Bucket=BUCKET, Key=key, Body=bytes(body))


def _free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
