"""A server that imports modules once, and forks for each process that tests start; see ``forking``.

``python -m tests.support.fork_server SOCKET MODULE…`` imports the modules, and then forks for each
request on its socket. Its stdin is a pipe that its owner holds open: it ends with the owner. It has
run nothing of what it has imported, and has one thread.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MESSAGE_BYTES = 1 << 17
"""Of a request, and of what is answered."""
_MOST_DESCRIPTORS = 8
FEW_SAMPLES = "tests.support.few_samples"


def _serve(address: Path, owner: int) -> dict[str, Any] | None:
    """Fork for each request. Returns the request in a fork, and None once the owner is gone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{address}.new")
    listener.listen(64)
    Path(f"{address}.new").rename(address)
    children: dict[int, tuple[int, socket.socket]] = {}
    """Handle → pid and connection."""
    while True:
        connections = {connection.fileno(): handle for handle, (_, connection) in children.items()}
        ready, _, _ = select.select([owner, listener, *connections, *children], [], [])
        if owner in ready:
            for handle in children:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            return None
        for each in ready:
            if each in children:
                _tell_status(each, *children.pop(each))
            elif each in connections and connections[each] in children:
                _end_unwanted(connections[each], *children.pop(connections[each]))
        if listener in ready:
            connection, _ = listener.accept()
            message, received, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, _MOST_DESCRIPTORS)
            if not message:  # whoever connected was killed before it asked
                connection.close()
                continue
            pid = os.fork()
            if pid == 0:
                for handle, (_, other) in children.items():
                    os.close(handle)
                    other.close()
                connection.close()
                listener.close()
                os.close(owner)
                request: dict[str, Any] = json.loads(message)
                _take_descriptors(dict(zip(received, request["descriptors"], strict=True)))
                return request
            for descriptor in received:
                os.close(descriptor)
            handle = os.pidfd_open(pid)
            children[handle] = (pid, connection)
            with contextlib.suppress(OSError):  # it is gone; the next round ends the fork
                socket.send_fds(connection, [json.dumps({"pid": pid}).encode()], [handle])


def _tell_status(handle: int, pid: int, connection: socket.socket) -> None:
    _, ended = os.waitpid(pid, 0)
    os.close(handle)
    message = json.dumps({"status": os.waitstatus_to_exitcode(ended)}).encode()
    with contextlib.suppress(OSError):  # whoever asked is gone, too
        connection.send(message)
    connection.close()


def _end_unwanted(handle: int, pid: int, connection: socket.socket) -> None:
    """Whoever asked for the process is gone."""
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(handle)
    connection.close()


def _take_descriptors(numbers: Mapping[int, int]) -> None:
    """Received descriptor → its number in this process."""
    free = 1 + max(*numbers, *numbers.values())
    moved = {os.dup2(each, free + n): number for n, (each, number) in enumerate(numbers.items())}
    for each in numbers:
        os.close(each)
    for each, number in moved.items():
        os.dup2(each, number)
        os.close(each)


def _become(request: Mapping[str, Any]) -> None:
    """Run the module of the request as ``python -m`` does."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    if few_samples := sys.modules.get(FEW_SAMPLES):
        few_samples.choose(os.environ)
    sys.argv = [request["module"], *request["argv"]]
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        if isinstance(exit_.code, int | None):  # else Python prints it
            _end["status"] = exit_.code or 0
        raise
    _end["status"] = 0


_end: dict[str, int] = {}
"""Of a fork whose module has ended in the usual way: ``status``."""


def _leave() -> None:
    """The last exit handler. An end by an exception is left to Python, and output nobody reads."""
    with contextlib.suppress(OSError, ValueError):
        if "status" in _end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_end["status"] & 0xFF)


def _forget_finalizers() -> None:
    """What imports made is not finalized by the forks: torch would take its operators apart."""
    for finalizer in list(vars(weakref.finalize)["_registry"]):
        finalizer.atexit = False


if __name__ == "__main__":
    atexit.register(_leave)  # before the imports: the handler registered first is run last
    for name in sys.argv[2:]:
        importlib.import_module(name)
    _forget_finalizers()
    gc.collect()
    gc.freeze()
    # The number of stdin, which every fork takes for itself, has to be free.
    owner_gone = os.dup(0)
    if (asked := _serve(Path(sys.argv[1]), owner_gone)) is not None:
        _become(asked)
