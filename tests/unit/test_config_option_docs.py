"""The page of options is what the tables say."""

from pathlib import Path

from trainer_core.config.simpletuner.option_docs import PAGE, page
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.verdicts import Option

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    written = (ROOT / PAGE).read_text(encoding="utf-8")

    assert written == page(), "run: python -m trainer_core.config.simpletuner.option_docs"


def test_every_alias_leads_to_an_option() -> None:
    options = [row for row in OPTIONS.values() if isinstance(row, Option)]
    targets = {option.alias_of for option in options if option.alias_of}

    assert targets
    assert targets <= OPTIONS.keys()
