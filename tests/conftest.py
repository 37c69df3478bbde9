"""Real servers for the tests: each plugin owns one kind of process."""

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.redis",
    "tests.support.rgw",
    "tests.support.dispatching",
    "tests.support.objects",
    "tests.support.hub",
    "tests.support.service",
    "tests.support.tiny",
    "tests.support.zygote",
]
