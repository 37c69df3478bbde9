"""What commands print of a run's output: nothing that commands a terminal, and curves in a line."""

import pytest

from services.cli.run_logs import printable
from services.cli.run_metrics import sparkline


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("plain é\n", "plain é\n"),
        ("\x1b[31mred\x1b[0m\n", "red\n"),
        ("\x1b]0;title\x07text", "0;titletext"),
        (" 10%\r 20%\r\n\tx", " 10%\r 20%\r\n\tx"),
        ("a\x00\x08\x7f\x9bb", "ab"),
        ("\x1b[2J\x1b[1;1Hgone\x1bc", "gone"),
    ],
)
def test_a_terminal_is_not_commanded(printed: str, shown: str) -> None:
    assert printable(printed) == shown


def test_a_curve_is_drawn_between_its_least_and_greatest_value() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.5, None, 8.0]) == "▁▂▃▄ █"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([None]) == ""
    assert sparkline([]) == ""
