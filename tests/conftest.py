"""Real servers for the tests: each plugin owns one kind of process."""

import gc
import os
import signal

# Before anything imports triton: its interpreter runs the kernels on CPU tensors. `make test-gpu`
# sets 0, and so compiles them.
os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.verifying",
    "tests.support.runs",
    "tests.support.redis",
    "tests.support.rgw",
    "tests.support.dispatching",
    "tests.support.objects",
    "tests.support.hub",
    "tests.support.resolving",
    "tests.support.wandb_server",
    "tests.support.service",
    "tests.support.tenant_rows",
    "tests.support.tiny",
    "tests.support.small_jobs",
    "tests.support.poison",
    "tests.support.zygote",
    "tests.support.local_commands",
    "tests.support.validating",
]


def pytest_configure() -> None:
    """Undo an ignored SIGINT: a background job of `sh` has it, and child processes inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection() -> None:
    """Collect no garbage while tests are collected: some million objects are made, and all stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """No later garbage collection looks at what belongs to the tests themselves."""
    gc.freeze()
    gc.enable()
