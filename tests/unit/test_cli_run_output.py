"""What commands print of tenants' texts: nothing that commands a terminal, and curves in a line."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli import output
from services.cli.run_metrics import sparkline
from services.domain.visible_text import VISIBLE_PATTERN, escaped, is_visible

HOSTILE = "\x1b]0;pwned\x07\x1b[31mRED\r\nowner\u202e\x9b2J\ud800"
ESCAPED = r"\x1b]0;pwned\x07\x1b[31mRED\r\nowner\u202e\x9b2J\ud800"
Printed = pytest.CaptureFixture[str]


def test_tables_and_facts_have_one_line_for_a_text(capsys: Printed) -> None:
    output.print_table(["NAME", HOSTILE], [[HOSTILE, "viewer"]])
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", ESCAPED]
    assert row.split() == [ESCAPED, "viewer"]
    output.print_facts({HOSTILE: HOSTILE})
    assert capsys.readouterr().out == f"{ESCAPED}  {ESCAPED}\n"
    output.print_csv([[HOSTILE, 1.5]])
    assert capsys.readouterr().out == f"{ESCAPED},1.5\r\n"


def test_notes_and_errors_are_escaped(capsys: Printed) -> None:
    output.print_note(HOSTILE)
    assert capsys.readouterr().err == f"{ESCAPED}\n"
    output.print_error("bad name \x1b[2J\n  /name: \x9b\nerror: forged")
    assert capsys.readouterr().err == (
        "error: bad name \\x1b[2J\n  /name: \\x9b\n  error: forged\n"
    )


def test_json_is_the_same_document_without_controls(capsys: Printed) -> None:
    output.print_json({"name": HOSTILE})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": HOSTILE}
    assert escaped(printed, keep="\n") == printed


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("plain é\n", "plain é\n"),
        ("\x1b[31mred\x1b[0m\n", "red\n"),
        ("\x1b]0;title\x07text", "\\x1b]0;title\\x07text"),
        (" 10%\r 20%\r\n\tx", " 10%\n 20%\n\tx"),
        ("a\x00\x08\x7f\x9bb", "a\\x00\\x08\\x7f\\x9bb"),
        ("\x1b[2J\x1b[1;1Hgone\x1bc", "\\x1b[2J\\x1b[1;1Hgone\\x1bc"),
    ],
)
def test_a_log_does_not_command_a_terminal(printed: str, shown: str, capsys: Printed) -> None:
    output.print_log(printed)
    assert capsys.readouterr().out == shown


@given(text=st.text())
def test_the_pattern_of_names_takes_what_the_check_takes(text: str) -> None:
    is_taken = re.search(VISIBLE_PATTERN, text) is not None and not text.endswith("\n")
    assert is_taken == is_visible(text)
    assert is_visible(escaped(text))
    assert (escaped(text) == text) == is_visible(text)


def test_a_curve_is_drawn_between_its_least_and_greatest_value() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.5, None, 8.0]) == "▁▂▃▄ █"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([None]) == ""
    assert sparkline([]) == ""
