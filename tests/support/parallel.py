"""pytest plugin: tests are collected once, and run by several forked processes, file by file.

``--processes N`` forks N processes once all tests are collected. Each takes whole files, in the
order of the collected tests: fixtures of a module are made once, those of a session once in each
process. What is reported goes to the first process through a pipe, so that the summary, ``-x`` and
``--junitxml`` are as always. A process that dies is a failure of the test that it ran, and another
process runs the rest of its file.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator
from itertools import chain, groupby, pairwise
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import pytest

_END_S: Final = 60.0
"""For the fixtures of a process that is told to stop."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--processes", type=int, default=1, help="how many forked processes run the tests"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Literal[True] | None:
    options = session.config.option
    if options.processes < 2 or options.collectonly or session.testsfailed or not session.items:
        return None
    # It would print the path of a file whenever another process reports.
    if reporter := session.config.pluginmanager.get_plugin("terminalreporter"):
        reporter.showfspath = False
    _Processes(session, options.processes).run()
    return True


class _Process:
    """One forked process, as the first process sees it."""

    def __init__(self, pid: int, number: int, connection: Connection) -> None:
        self.number = number
        self.connection = connection
        self.handle = os.pidfd_open(pid)
        self.left: deque[int] = deque()
        """Tests that it was given and has not ended: their numbers in ``session.items``."""

    def ended(self) -> int:
        """Its exit status, as of ``os.waitstatus_to_exitcode``; waits for it."""
        found = os.waitid(os.P_PIDFD, self.handle, os.WEXITED)
        assert found is not None
        os.close(self.handle)
        self.connection.close()
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


class _Processes:
    """The first process: it gives files away, and passes on what is reported."""

    def __init__(self, session: pytest.Session, count: int) -> None:
        self._session = session
        self._hook = session.config.hook
        numbered = enumerate(session.items)
        by_file = groupby(numbered, lambda each: each[1].nodeid.partition("::")[0])
        self._files = deque([number for number, _ in file] for _, file in by_file)
        self._count = min(count, len(self._files))
        self._processes: list[_Process] = []

    def run(self) -> None:
        """Run until each test has run; raises as pytest's own loop does where they are to stop."""
        _temporary_folders(self._session.config).getbasetemp()  # made before the forks, for all
        try:
            for number in range(self._count):
                self._fork(number)
            while self._processes:
                self._read()
                if self._session.shouldfail:
                    raise self._session.Failed(self._session.shouldfail)
                if self._session.shouldstop:
                    raise self._session.Interrupted(self._session.shouldstop)
        finally:
            self._stop()

    def _fork(self, number: int) -> None:
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for each in self._processes:
                each.connection.close()
                os.close(each.handle)
            _become(self._session, number, theirs)
        theirs.close()
        self._processes.append(_Process(pid, number, ours))

    def _read(self) -> None:
        """Wait for what processes say, and for their end."""
        handles = [process.handle for process in self._processes]
        ready = wait([*(process.connection for process in self._processes), *handles])
        for process in list(self._processes):
            if process.connection in ready:
                self._answer(process)
            elif process.handle in ready:
                self._end(process)

    def _answer(self, process: _Process) -> None:
        try:
            kind, facts = process.connection.recv()
        except EOFError:
            self._end(process)
            return
        if kind == "next":
            file = self._files.popleft() if self._files else []
            process.left.extend(file)
            with contextlib.suppress(BrokenPipeError):  # it has just ended: read in the next round
                process.connection.send(file)
        elif kind == "start":
            self._hook.pytest_runtest_logstart(**facts)
        elif kind == "report":
            report = self._hook.pytest_report_from_serializable(
                config=self._session.config, data=facts
            )
            self._hook.pytest_runtest_logreport(report=report)
        elif kind == "finish":
            process.left.popleft()
            self._hook.pytest_runtest_logfinish(**facts)
        else:
            self._warn(**facts)

    def _warn(self, *, text: str, category: str, filename: str, lineno: int, **more: Any) -> None:
        kind = type(category, (Warning,), {})
        message = warnings.WarningMessage(kind(text), kind, filename, lineno)
        self._hook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": message, **more}
        )

    def _end(self, process: _Process) -> None:
        """It is gone. Where tests are left it has failed, and another takes its place."""
        self._processes.remove(process)
        status = process.ended()
        if not process.left:
            assert status == 0, f"process {process.number} of the tests ended with {status}"
            return
        item = self._session.items[process.left.popleft()]
        path, line, name = item.location
        self._hook.pytest_runtest_logreport(
            report=pytest.TestReport(
                nodeid=item.nodeid,
                location=(path, line, name),
                keywords={},
                outcome="failed",
                longrepr=f"the process that ran {item.nodeid} ended with {status}",
                when="call",
            )
        )
        if process.left:
            self._files.appendleft(list(process.left))
        if self._files:
            self._fork(process.number)

    def _stop(self) -> None:
        """End the processes that still run: each after the test that it runs."""
        for process in self._processes:
            process.connection.close()
        end_s = time.monotonic() + _END_S
        for process in self._processes:
            if not wait([process.handle], end_s - time.monotonic()):
                signal.pidfd_send_signal(process.handle, signal.SIGKILL)
            process.ended()


def _become(session: pytest.Session, number: int, connection: Connection) -> NoReturn:
    """Be one of the processes, to its end."""
    status = 1
    try:
        _take_own_files(session.config, number)
        teller = _Teller(session.config, connection)
        session.config.pluginmanager.register(teller)
        teller.tells_warnings = True
        items = chain(_items_given(session, connection), (None,))
        for item, following in pairwise(items):
            assert item is not None
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail or session.shouldstop:
                break
        status = 0
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # told to stop
        status = 0
    except BaseException:  # noqa: BLE001 - the first process reports that this one has failed
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            session._setupstate.teardown_exact(None)  # the fixtures of a test that was interrupted
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # exit handlers are the first process's


def _take_own_files(config: pytest.Config, number: int) -> None:
    """Own files for captured output and for ``tmp_path``; the terminal is the first process's."""
    if capture := config.pluginmanager.get_plugin("capturemanager"):
        capture.stop_global_capturing()
        capture.start_global_capturing()
        capture.suspend_global_capture()
    if reporter := config.pluginmanager.get_plugin("terminalreporter"):
        reporter._tw._file = Path(os.devnull).open("w")  # noqa: SIM115 - to the end
    folders = _temporary_folders(config)
    folders._basetemp = folders.getbasetemp() / f"process-{number}-{os.getpid()}"
    folders._basetemp.mkdir(mode=0o700)


def _temporary_folders(config: pytest.Config) -> pytest.TempPathFactory:
    factory: pytest.TempPathFactory = vars(config)["_tmp_path_factory"]
    return factory


def _items_given(session: pytest.Session, connection: Connection) -> Iterator[pytest.Item]:
    """Those of one file after another, which the first process gives."""
    while True:
        connection.send(("next", {}))
        if not (numbers := connection.recv()):
            return
        yield from (session.items[number] for number in numbers)


class _Teller:
    """Plugin of a forked process: tells the first one what is reported."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config = config
        self._connection = connection
        self.tells_warnings = False
        """Not those of before, which a plugin gets when it is registered."""

    def pytest_runtest_logstart(self, nodeid: str, location: object) -> None:
        self._connection.send(("start", {"nodeid": nodeid, "location": location}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        facts = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._connection.send(("report", facts))

    def pytest_runtest_logfinish(self, nodeid: str, location: object) -> None:
        self._connection.send(("finish", {"nodeid": nodeid, "location": location}))

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: object,
    ) -> None:
        if not self.tells_warnings:
            return
        facts = {
            "text": str(warning_message.message),
            "category": warning_message.category.__name__,
            "filename": warning_message.filename,
            "lineno": warning_message.lineno,
            "when": when,
            "nodeid": nodeid,
            "location": location,
        }
        self._connection.send(("warning", facts))
