"""Real servers for the tests: each plugin owns one kind of process."""

import gc
import os
import signal

import pytest
import structlog

from tests.support.forking import await_servers, begin_servers, session_folder
from tests.support.trusting import trust_one

# Before anything imports triton: its interpreter runs the kernels on CPU tensors. `make test-gpu`
# sets 0, and so compiles them.
os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.verifying",
    "tests.support.datasets",
    "tests.support.runs",
    "tests.support.redis",
    "tests.support.shared_rgw",
    "tests.support.dispatching",
    "tests.support.objects",
    "tests.support.hub",
    "tests.support.file_server",
    "tests.support.buckets",
    "tests.support.importing",
    "tests.support.resolving",
    "tests.support.wandb_server",
    "tests.support.service",
    "tests.support.tenant_rows",
    "tests.support.held_pictures",
    "tests.support.tiny",
    "tests.support.small_jobs",
    "tests.support.poison",
    "tests.support.zygote",
    "tests.support.local_commands",
    "tests.support.validating",
    "tests.support.pairs",
]


def pytest_configure() -> None:
    """Plain tracebacks in logs, no ignored SIGINT, and what processes of tests share.

    A background job of `sh` ignores SIGINT, and child processes inherit that.
    """
    trust_one(session_folder())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # With every local variable of every frame, as is usual, a traceback takes ten seconds.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


def pytest_collection(session: pytest.Session) -> None:
    """Collect no garbage while tests are collected: some million objects are made, and all stay.

    Where several processes will run them, the servers that fork start meanwhile, on another core.
    """
    gc.disable()
    options = session.config.option
    if getattr(options, "processes", 1) > 1 and not options.collectonly:
        begin_servers()


def pytest_collection_finish() -> None:
    """No later garbage collection looks at what belongs to the tests themselves.

    And it looks less often: it was 3 to 5 % of the CPU time of the tests' process.
    """
    await_servers()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()
