"""Files that the fetching process has left: opened without following a link, and checked.

That process decodes what strangers made. If one of them takes it over, its replies must not make
this process, which has credentials, read or store any other file of this machine.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from services.objects.folder_files import open_regular
from services.objects.local_files import pieces_of
from services.processes.request_child import ChildLostError
from trainer_core.process.import_requests import FetchedFile

MAX_LIST_BYTES: Final = 16 << 20


@contextlib.contextmanager
def opened(folder: Path, file: FetchedFile) -> Iterator[Path]:
    """A path to the open file, which leads there whatever becomes of its name.

    Raises ChildLostError where it is not there, no regular file, or not as the reply has it.
    """
    with _open(folder, file.local_name, f"file for {file.path}") as source:
        digest, size_bytes = hashlib.sha256(), 0
        for piece in pieces_of(source, file.size_bytes + 1):
            digest.update(piece)
            size_bytes += len(piece)
        if size_bytes != file.size_bytes or digest.hexdigest() != file.sha256:
            raise ChildLostError(f"the file that it left for {file.path} is another one")
        yield Path(f"/proc/self/fd/{source.fileno()}")


def read_list(folder: Path, name: str) -> bytes:
    """The list that was fetched. Raises ChildLostError."""
    with _open(folder, name, "list") as source:
        content = source.read(MAX_LIST_BYTES + 1)
    if len(content) > MAX_LIST_BYTES:
        raise ChildLostError(f"its list has more than {MAX_LIST_BYTES:,} bytes")
    return content


def _open(folder: Path, name: str, what: str) -> BinaryIO:
    if "/" in name or name in ("", ".", "..") or "\0" in name:
        raise ChildLostError("its reply names a file elsewhere")
    try:
        return open_regular(folder.parent, (folder.name, name))
    except OSError as error:
        raise ChildLostError(f"it left no {what}: {error.strerror}") from error
