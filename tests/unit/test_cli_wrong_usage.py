"""Commands that are refused before anything is sent: the message names what is wrong."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from trainer_core.errors import DocumentError


def refused(*args: str) -> Result:
    """What the command ends with; a service would be unreachable."""
    options = ("--url", "http://127.0.0.1:9", "--api-key", "rv_k")
    result = CliRunner().invoke(
        app, [*options, *args], obj=Invocation(env={}), env={"COLUMNS": "200"}
    )
    assert result.exit_code != 0
    return result


@pytest.mark.parametrize("option", [["--public"], ["--hub-secret", "mine"]])
def test_what_is_for_the_hub_needs_a_repository(option: list[str]) -> None:
    result = refused("runs", "publish", "run_1", *option)
    assert result.exit_code == 2
    assert option[0] in result.output
    assert "--hub OWNER/NAME" in result.output


@pytest.mark.parametrize(
    "command",
    [
        "validate --config",
        "train --config",
        "train --config . --output",
        "configure --pictures",
        "configure --pictures . --output",
        "export",
        "export . --base",
        "generate --base x --output",
        "generate --base",
        "generate --base x --output a.png --adapter",
        "merge --base",
        "runs submit --config",
        "datasets push",
        "models make-tiny",
    ],
)
def test_an_empty_path_is_wrong_usage(command: str) -> None:
    result = refused(*command.split(), "")
    assert result.exit_code == 2
    assert "it is empty: give a path" in result.output


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"config": {"learning_rate": NaN}}', DocumentError, "NaN is not a number"),
        ('{"config": {"learning_rate": 1e999}}', DocumentError, "1e999 is not a number"),
        ("[1]", CommandError, "has to hold an object"),
        ('{"config": 3}', CommandError, "config in .* has to be an object"),
    ],
)
def test_changes_that_are_no_patch_are_told(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    file = tmp_path / "changes.json"
    file.write_text(text)
    result = refused("runs", "clone", "run_1", f"--changes={file}", "--set=seed=1")
    with pytest.raises(error, match=message):
        raise result.exception or AssertionError(result.output)


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "1e400", "1e999999999", "0", "x"])
@pytest.mark.parametrize("option", ["--max-cost", "--max-gpu-hours"])
def test_a_limit_is_a_number_above_0(option: str, number: str) -> None:
    result = refused("runs", "set", "run_1", option, number)
    assert result.exit_code == 2
    assert f"{number} is not a number above 0, or none" in result.output


def test_a_status_of_deliveries_is_one_of_three() -> None:
    result = refused("webhooks", "deliveries", "wh_1", "--status=lost")
    assert result.exit_code == 2
    for status in ("pending", "succeeded", "failed"):
        assert status in result.output
