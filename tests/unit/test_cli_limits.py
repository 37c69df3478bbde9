"""The bounds of the commands' options are those of the API: `--help` says them."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from services.api import describe
from services.cli.connection import Invocation
from services.cli.program import app
from tests.support.tenant import Json

LISTS = {
    "audit list": "/v1/audit-events",
    "batches list": "/v1/batches",
    "datasets list": "/v1/datasets",
    "keys list": "/v1/api-keys",
    "members list": "/v1/members",
    "runs list": "/v1/runs",
    "runs samples": "/v1/runs/{run_id}/samples",
    "secrets list": "/v1/secrets",
    "webhooks deliveries": "/v1/webhooks/{webhook_id}/deliveries",
    "webhooks list": "/v1/webhooks",
}
OTHERS = [
    ("runs logs", "tail", "/v1/runs/{run_id}/logs", "tail"),
    ("runs metrics", "points", "/v1/runs/{run_id}/metrics", "points"),
    ("usage", "months", "/v1/usage", "limit"),
]


def commands(known: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each command with its words."""
    below = getattr(known, "commands", {})
    if not below:
        yield " ".join(words), known
    for name, command in below.items():
        yield from commands(command, (*words, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.fixture(scope="module")
def paths() -> Json:
    """Of the OpenAPI document."""
    return dict(describe.document()["paths"])


def test_every_list_with_a_limit_is_looked_at() -> None:
    have_one = {
        name
        for name, command in COMMANDS.items()
        if any(option.name == "limit" for option in command.params)
    }
    assert have_one == LISTS.keys()


@pytest.mark.parametrize(
    ("command", "option", "path", "name"),
    [*((each, "limit", path, "limit") for each, path in LISTS.items()), *OTHERS],
)
def test_a_bound_is_that_of_the_api_and_is_said(
    command: str, option: str, path: str, name: str, paths: Json
) -> None:
    parameters = paths[path]["get"]["parameters"]
    (schema,) = (each["schema"] for each in parameters if each["name"] == name)
    bounds = next((each for each in schema.get("anyOf", []) if "maximum" in each), schema)
    least, most = bounds["minimum"], bounds["maximum"]
    words = [*command.split(), *(["id"] if "{" in path else [])]

    def output(*more: str) -> str:
        return CliRunner().invoke(app, [*words, *more], obj=Invocation(env={})).output

    assert f"{least}<=x<={most}" in output("--help")
    assert f"less than or equal to {most}" in output(f"--{option}={most + 1}")
