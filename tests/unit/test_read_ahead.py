"""What is read ahead is advice: files of any kind, or none, and the newest kept weights."""

import os
import resource
from pathlib import Path

from trainer_core.weights.files import kept_files, kept_name
from trainer_core.weights.read_ahead import start_read_ahead


def test_files_are_read_into_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(8 << 20))
    _evict(file)
    start_read_ahead([tmp_path / "missing", tmp_path, file]).join(timeout=30)
    before = _blocks_read()

    body = file.read_bytes()

    assert len(body) == 8 << 20
    assert _blocks_read() - before < 100  # of 16384


def test_the_weights_read_last_come_first(tmp_path: Path) -> None:
    digest, other = "ab" * 32, "cd" * 32
    for number, name in enumerate(
        (kept_name(digest, "1" * 64), kept_name(digest, "2" * 64), kept_name(other, "1" * 64))
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").touch()
        os.utime(tmp_path / name, (number, 10 - number))

    found = [file.parent.name for file in kept_files(tmp_path, digest)]

    assert found == [kept_name(digest, "1" * 64), kept_name(digest, "2" * 64)]
    assert kept_files(tmp_path / "missing", digest) == []


def _evict(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _blocks_read() -> int:
    """Blocks of 512 bytes that this process read from a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock
