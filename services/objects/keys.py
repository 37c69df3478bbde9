"""Object keys: the only place that builds them, and the check for all of them.

tenants/<tenant_id>/uploads/<sha256>                                    a tenant's file
tenants/<tenant_id>/cache/<digest>/                                     a shard and its manifest
tenants/<tenant_id>/runs/<run_id>/attempts/<fence>/checkpoints/step-00000100/
tenants/<tenant_id>/runs/<run_id>/attempts/<fence>/result/
tenants/<tenant_id>/runs/<run_id>/attempts/<fence>/samples/<sha256>.png
tenants/<tenant_id>/runs/<run_id>/attempts/<fence>/preview.png          the newest one
probe/<time>-<random>                                                   see probing.py
services/<service_id>/generation                                        see results/restored.py
services/<service_id>/deletions/<deletion_id>                           a deletion's report
services/<service_id>/audit/<tenant_id>/<seq>-<hash>                    an anchor of an audit log
services/<service_id>/audit_beginnings/<tenant_id>/<seq>-<hash>         where a trimmed log begins
"""

import re
from dataclasses import dataclass
from typing import Final

from services.domain.ids import is_id
from services.objects.errors import InvalidKeyError
from trainer_core.checkpoint.layout import checkpoint_name

MANIFEST_NAME: Final = "manifest.json"
"""The manifest of a folder: written last, it names every file with its size and SHA-256."""

PROBE_PREFIX: Final = "probe/"
TENANTS_PREFIX: Final = "tenants/"

MAX_KEY_BYTES: Final = 1024  # S3's own limit
MAX_PART_BYTES: Final = 255  # a file name's limit on Linux

# The first character is never a dot: "." and ".." cannot be spelled, and names with a leading dot
# are the folder store's own.
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ATTEMPT: Final = re.compile(r"tenants/[^/]+/runs/[^/]+/attempts/(\d+)/")
_CHECKPOINT: Final = re.compile(_ATTEMPT.pattern + r"checkpoints/step-(\d+)/")
_SHARD: Final = re.compile(r"tenants/[^/]+/cache/([0-9a-f]{64})/")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_key(key: str) -> tuple[str, ...]:
    """The key's parts; raises InvalidKeyError for anything that is not a plain relative path."""
    if not key or len(key) > MAX_KEY_BYTES:
        raise InvalidKeyError(key, f"must be 1 to {MAX_KEY_BYTES} characters long")
    parts = tuple(key.split("/"))
    for part in parts:
        if len(part) > MAX_PART_BYTES:
            raise InvalidKeyError(key, f"a part is longer than {MAX_PART_BYTES} characters")
        if _PART.fullmatch(part) is None:
            raise InvalidKeyError(
                key,
                "parts hold letters, digits and ._- only, and start with neither a dot nor a dash",
            )
    return parts


def check_prefix(prefix: str) -> tuple[str, ...]:
    """The parts of a prefix, which ends in ``/`` so that ``runs/a`` never means ``runs/ab``."""
    if not prefix.endswith("/"):
        raise InvalidKeyError(prefix, "a prefix ends in /")
    return check_key(prefix[:-1])


def upload_key(tenant_id: str, sha256: str) -> str:
    """Key of an uploaded file; it is named by its content, so uploading it again is harmless."""
    return f"{uploads_prefix(tenant_id)}{_digest(sha256)}"


def uploads_prefix(tenant_id: str) -> str:
    """Folder of a tenant's files; ends in ``/``."""
    return f"{_tenant(tenant_id)}/uploads/"


def shard_prefix(tenant_id: str, digest: str) -> str:
    """Folder of one cache shard; ends in ``/``."""
    return f"{_tenant(tenant_id)}/cache/{_digest(digest)}/"


def tenant_prefix(tenant_id: str) -> str:
    """Folder of everything of a tenant; ends in ``/``."""
    return f"{_tenant(tenant_id)}/"


def runs_prefix(tenant_id: str) -> str:
    """Folder of all runs of a tenant; ends in ``/``."""
    return f"{_tenant(tenant_id)}/runs/"


def run_prefix(tenant_id: str, run_id: str) -> str:
    """Folder of a run; ends in ``/``."""
    if not is_id(run_id, "run"):
        raise InvalidKeyError(run_id, "not the id of a run")
    return f"{runs_prefix(tenant_id)}{run_id}/"


def attempts_prefix(tenant_id: str, run_id: str) -> str:
    """Folder of all attempts of a run; ends in ``/``."""
    return f"{run_prefix(tenant_id, run_id)}attempts/"


def attempt_prefix(tenant_id: str, run_id: str, fence: int) -> str:
    """Folder of one attempt's output; ends in ``/``. The fence keeps two attempts apart."""
    if fence < 1:
        raise InvalidKeyError(str(fence), "a fence starts at 1")
    return f"{attempts_prefix(tenant_id, run_id)}{fence}/"


def checkpoint_prefix(tenant_id: str, run_id: str, fence: int, step: int) -> str:
    """Folder of one checkpoint; ends in ``/``. ``step`` is the optimizer step, from 1."""
    if step < 1:
        raise InvalidKeyError(str(step), "a step starts at 1")
    return f"{attempt_prefix(tenant_id, run_id, fence)}checkpoints/{checkpoint_name(step)}/"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPlace:
    """Where a checkpoint's object belongs."""

    fence: int
    step: int


def checkpoint_of(key: str) -> CheckpointPlace | None:
    """The checkpoint that this object is part of; None for any other object."""
    found = _CHECKPOINT.match(key)
    return None if found is None else CheckpointPlace(fence=int(found[1]), step=int(found[2]))


def shard_of(key: str) -> str | None:
    """The digest of the cache shard that this object is part of; None for any other object."""
    found = _SHARD.match(key)
    return None if found is None else found[1]


def fence_of(key: str) -> int:
    """The fence of the attempt that wrote this object; 0 for an object of no attempt."""
    found = _ATTEMPT.match(key)
    return 0 if found is None else int(found[1])


def generation_key(service_id: str) -> str:
    """Key of the marker that a restored database is compared with."""
    return f"services/{service_id}/generation"


def deletions_prefix(service_id: str) -> str:
    """Folder of the reports of deletions; ends in ``/``."""
    return f"services/{service_id}/deletions/"


def deletion_key(service_id: str, deletion_id: str) -> str:
    """Key of the report of a deletion."""
    return f"{deletions_prefix(service_id)}{deletion_id}"


def anchors_prefix(service_id: str, tenant_id: str) -> str:
    """Folder of the anchors of a tenant's audit log; ends in ``/``."""
    _tenant(tenant_id)
    return f"services/{service_id}/audit/{tenant_id}/"


def anchor_key(service_id: str, tenant_id: str, seq: int, event_hash: str) -> str:
    """Key of an anchor; two histories of one log, as after a restored backup, have two."""
    return f"{anchors_prefix(service_id, tenant_id)}{seq:020d}-{_digest(event_hash)}"


def beginnings_prefix(service_id: str, tenant_id: str) -> str:
    """Folder that says where a tenant's audit log may begin; ends in ``/``."""
    _tenant(tenant_id)
    return f"services/{service_id}/audit_beginnings/{tenant_id}/"


def beginning_key(service_id: str, tenant_id: str, seq: int, event_hash: str) -> str:
    """Key that says that a log may begin with this event."""
    return f"{beginnings_prefix(service_id, tenant_id)}{seq:020d}-{_digest(event_hash)}"


def anchored(key: str) -> tuple[int, str]:
    """Number and hash of the event that an anchor or a beginning of this key has."""
    seq, _, event_hash = key.rpartition("/")[2].partition("-")
    return int(seq), event_hash


def result_prefix(tenant_id: str, run_id: str, fence: int) -> str:
    """Folder of a run's result; ends in ``/``."""
    return f"{attempt_prefix(tenant_id, run_id, fence)}result/"


def sample_key(tenant_id: str, run_id: str, fence: int, sha256: str) -> str:
    """Key of a picture that an attempt made. Its name has letters that no key may have."""
    return f"{attempt_prefix(tenant_id, run_id, fence)}samples/{_digest(sha256)}.png"


def preview_key(tenant_id: str, run_id: str, fence: int) -> str:
    """Key of the newest preview of an attempt; each one replaces the one before."""
    return f"{attempt_prefix(tenant_id, run_id, fence)}preview.png"


def _tenant(tenant_id: str) -> str:
    if not is_id(tenant_id, "ten"):
        raise InvalidKeyError(tenant_id, "not the id of a tenant")
    return f"tenants/{tenant_id}"


def _digest(sha256: str) -> str:
    if _SHA256.fullmatch(sha256) is None:
        raise InvalidKeyError(sha256, "not a SHA-256 in lower-case hex")
    return sha256
