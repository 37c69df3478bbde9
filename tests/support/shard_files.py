"""Files of cache shards whose entries hold bytes that a test chose."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from trainer_core.data.shard_files import shard_header


def write_shard(path: Path, entries: Mapping[str, bytes]) -> Path:
    """A shard with these entries by their digests; each has one tensor of bytes."""
    tensors = {digest: {"mean": ("U8", (len(body),))} for digest, body in entries.items()}
    sha256s = {digest: hashlib.sha256(body).hexdigest() for digest, body in entries.items()}
    path.write_bytes(shard_header(tensors, sha256s) + b"".join(entries.values()))
    return path
