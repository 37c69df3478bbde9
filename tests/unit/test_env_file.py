"""A config.env is read like a shell reads it, and nothing in it runs."""

from pathlib import Path

import pytest

from services.cli.env_file import parse_env
from trainer_core.errors import DocumentError

TEXT = r"""
# a comment
export PLAIN=1e-4 # the rate
  NO_EXPORT = x
export DOUBLE="two words, $PLAIN and ${PLAIN}0, \$PLAIN, a \"quote\" # kept"
export SINGLE='$PLAIN stays "as it is"'
MIXED="a b"'c'd\ e
WORDS=a photo of a cat
EMPTY=
HASH=x#y
LONG="--one=1 \
 --two"
export SELF="${SELF} --more"
export SELF+=" --and more"
export PLAIN
OUTSIDE=$HOME_DIR/data
""".replace("NO_EXPORT = x", "NO_EXPORT=x")


def values(text: str, **env: str) -> dict[str, str]:
    return {name: each.value for name, each in parse_env(text, name="c.env", env=env).items()}


def test_values_are_those_of_a_shell() -> None:
    assert values(TEXT, HOME_DIR="/home/me") == {
        "PLAIN": "1e-4",
        "NO_EXPORT": "x",
        "DOUBLE": 'two words, 1e-4 and 1e-40, $PLAIN, a "quote" # kept',
        "SINGLE": '$PLAIN stays "as it is"',
        "MIXED": "a bcd e",
        "WORDS": "a photo of a cat",
        "EMPTY": "",
        "HASH": "x#y",
        "LONG": "--one=1  --two",
        "SELF": " --more --and more",
        "OUTSIDE": "/home/me/data",
    }


def test_the_line_is_that_of_the_last_assignment() -> None:
    found = parse_env("A=1\n\nB=2 \\\n 3\nA=4\n", name="c", env={})

    assert {name: each.line for name, each in found.items()} == {"A": 5, "B": 3}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("A=$(touch ran)", "A: $(touch ran) needs a shell, and none is run; write the value"),
        ("A=`touch ran`", "A: ` needs a shell"),
        ('A="`touch ran`"', "A: ` runs a command in a shell"),
        ("A=$((10 / 2))", "A: $((10 / 2)) needs a shell"),
        ("A=${B:-x}", "A: ${B:-x} needs a shell"),
        ("A=1; touch ran", "A: ; needs a shell"),
        ("A=x | tee ran", "A: | needs a shell"),
        ("A=1 B=2", "A: write one NAME=value a line"),
        ("A=$NOWHERE", "A: the variable NOWHERE is not set"),
        ('A="open', 'A: the quote " is not closed in this line'),
        ("A='open", "A: the quote ' is not closed in this line"),
        ("if [ -z x ]; then", "only lines NAME=value are read, and no command is run"),
        ("source other.env", "only lines NAME=value are read"),
        ("1A=x", "only lines NAME=value are read"),
        ("A=" + "x" * 100_001, "A is too long"),
    ],
)
def test_what_needs_a_shell_is_refused_by_its_line(
    line: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DocumentError) as caught:
        parse_env(f"X=1\n{line}\n", name="c.env", env={})

    assert caught.value.message.startswith(f"c.env, line 2: {why}")
    assert not list(tmp_path.iterdir())
