"""A real S3 server for the tests: Ceph RGW over a monitor and one OSD in memory, in a temp folder.

Debian packages: radosgw ceph-mon ceph-osd. About 15 s to start, so one server serves the whole test
run (see ``shared_rgw``) and every test gets a bucket of its own.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.support.ports import free_ports

_PROGRAMS = (
    "ceph",
    "ceph-authtool",
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
)
START_S = 90  # 12 to 18 s on two idle cores
_STOP_S = 10

_CONF = """\
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = [v2:127.0.0.1:{mon_v2_port},v1:127.0.0.1:{mon_v1_port}]
public_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
run_dir = {folder}
log_file = {folder}/$name.log
admin_socket = {folder}/$name.asok
crash_dir = {folder}
plugin_dir = /usr/lib/ceph
keyring = {folder}/admin.keyring
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_cluster_log_file = {folder}/cluster.log
mon_data_avail_crit = 1
mon_data_avail_warn = 1
osd_objectstore = memstore
memstore_device_bytes = 4294967296

[mon.a]
mon_data = {folder}/mon
keyring = {folder}/mon.keyring

[osd.0]
osd_data = {folder}/osd
keyring = {folder}/osd/keyring

[client.rgw]
keyring = {folder}/rgw.keyring
rgw_frontends = beast endpoint=127.0.0.1:{s3_port}
rgw_thread_pool_size = 32
rgw_enable_gc_threads = false
rgw_enable_lc_threads = false
rgw_run_sync_thread = false
"""


class RgwError(Exception):
    """The server did not come up; the message holds the end of its log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A fresh bucket and how to reach it."""

    name: str
    endpoint: str
    region: str
    access_key: str
    secret_key: str

    @property
    def url(self) -> str:
        """For REVERIE_OBJECTS_URL."""
        return f"s3://{self.name}?endpoint={self.endpoint}&region={self.region}"

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def at(self, port: int) -> "Bucket":
        """The same bucket, reached through a proxy that listens on this port."""
        return replace(self, endpoint=f"http://127.0.0.1:{port}")

    @property
    def env(self) -> dict[str, str]:
        """The credentials, under the names every S3 client reads."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self) -> Any:
        """As the bucket's owner."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Server:
    """How to reach a running server, as an owner of buckets."""

    endpoint: str
    region: str = "us-east-1"
    access_key: str
    secret_key: str

    def create_bucket(self) -> Bucket:
        bucket = Bucket(
            name=f"test-{secrets.token_hex(8)}",
            endpoint=self.endpoint,
            region=self.region,
            access_key=self.access_key,
            secret_key=self.secret_key,
        )
        client = bucket.client()
        client.create_bucket(Bucket=bucket.name)
        client.close()
        return bucket


class RgwServer:
    """One monitor, one OSD, one gateway: three processes and nothing else."""

    def __init__(self) -> None:
        # Not pytest's folder: a unix socket's path must stay under 108 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="rgw-"))
        self._conf = self._folder / "ceph.conf"
        self._children: list[subprocess.Popen[bytes]] = []
        self._ports = free_ports(3)
        self.s3 = S3Server(
            endpoint=f"http://127.0.0.1:{self._ports[2]}",
            access_key=secrets.token_hex(10),
            secret_key=secrets.token_hex(20),
        )

    def start(self) -> None:
        """Bring all three up and make the user; raises RgwError."""
        try:
            fsid = self._write_config()
            self._start_monitor(fsid)
            self._start_osd()
            self._start_gateway()
        except (subprocess.SubprocessError, OSError, RgwError) as error:
            printed = self._log_tails()
            self.stop()
            raise RgwError(f"{error}\n{printed}") from error

    def stop(self) -> None:
        """End the processes, the newest first, and remove the folder."""
        for child in reversed(self._children):
            child.terminate()
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write_config(self) -> str:
        fsid = str(uuid.uuid4())
        v2_port, v1_port, s3_port = self._ports
        self._conf.write_text(
            _CONF.format(
                fsid=fsid,
                folder=self._folder,
                mon_v2_port=v2_port,
                mon_v1_port=v1_port,
                s3_port=s3_port,
            )
        )
        return fsid

    def _start_monitor(self, fsid: str) -> None:
        mon_keys, admin_keys = self._folder / "mon.keyring", self._folder / "admin.keyring"
        rgw_keys, monmap = self._folder / "rgw.keyring", self._folder / "monmap"
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        self._run("ceph-authtool", "-C", mon_keys, "-g", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", "-C", admin_keys, "-g", "-n", "client.admin", *everything)
        self._run("ceph-authtool", "-C", rgw_keys, "-g", "-n", "client.rgw", *everything)
        for other in (admin_keys, rgw_keys):
            self._run("ceph-authtool", mon_keys, "--import-keyring", other)
        v2_port, v1_port, _ = self._ports
        address = f"[v2:127.0.0.1:{v2_port},v1:127.0.0.1:{v1_port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "-i", "a", "-c", self._conf, "--mkfs", "--monmap", monmap)
        self._spawn("ceph-mon", "-i", "a", "-c", self._conf, "-f")

    def _start_osd(self) -> None:
        keys = self._folder / "osd" / "keyring"
        keys.parent.mkdir()
        self._run("ceph-authtool", "-C", keys, "-g", "-n", "osd.0")
        osd_uuid = str(uuid.uuid4())
        self._ceph("osd", "new", osd_uuid)
        caps = ("mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *")
        self._ceph("auth", "add", "osd.0", *caps, "-i", keys)
        self._run("ceph-osd", "-i", "0", "-c", self._conf, "--mkfs", "--osd-uuid", osd_uuid)
        self._spawn("ceph-osd", "-i", "0", "-c", self._conf, "-f")

    def _start_gateway(self) -> None:
        self._spawn("radosgw", "-n", "client.rgw", "-c", self._conf, "-f")
        self._wait_until_it_answers()
        self._run(
            *("radosgw-admin", "-n", "client.rgw", "-c", self._conf),
            *("user", "create", "--uid", "tests", "--display-name", "tests"),
            *("--access-key", self.s3.access_key, "--secret-key", self.s3.secret_key),
        )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for child in self._children:
                if child.poll() is not None:
                    raise RgwError(f"{child.args!r} exited with {child.returncode}")
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(self.s3.endpoint, timeout=1).close()
                return
            time.sleep(0.1)
        raise RgwError(f"no answer from {self.s3.endpoint} in {START_S} s")

    def _ceph(self, *args: str | Path) -> None:
        self._run("ceph", "-c", self._conf, "--connect-timeout", "30", *args)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            [str(each) for each in command], capture_output=True, timeout=START_S, check=False
        )
        if done.returncode != 0:
            printed = done.stderr.decode(errors="replace")[-2000:]
            raise RgwError(f"{command[0]} exited with {done.returncode}: {printed}")

    def _spawn(self, *command: str | Path) -> None:
        name = str(command[0])
        with (self._folder / f"{name}.out").open("wb") as out:
            self._children.append(
                subprocess.Popen(
                    [str(each) for each in command],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            )

    def _log_tails(self) -> str:
        logs = sorted([*self._folder.glob("*.log"), *self._folder.glob("*.out")])
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs
        )


def need_rgw() -> None:
    """Skip the test where the server's programs are missing; on CI that is a failure."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        reason = f"no S3 server: install radosgw ceph-mon ceph-osd (missing {', '.join(missing)})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def use_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put them into the environment: S3 clients read them only there, and so does a new process."""
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
