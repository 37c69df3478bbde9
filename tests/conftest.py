"""Real servers for the tests: each plugin owns one kind of process."""

import os

# Before anything imports triton: its interpreter runs the kernels on CPU tensors. `make test-gpu`
# sets 0, and so compiles them.
os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.redis",
    "tests.support.rgw",
    "tests.support.dispatching",
    "tests.support.objects",
    "tests.support.hub",
    "tests.support.service",
    "tests.support.tiny",
    "tests.support.small_jobs",
    "tests.support.poison",
    "tests.support.zygote",
]
