"""The page of options is what the tables say."""

from pathlib import Path

from trainer_core.config.simpletuner import migration_docs
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


def test_the_migration_page_is_current() -> None:
    written = (ROOT / migration_docs.PAGE).read_text(encoding="utf-8")

    wanted = migration_docs.page(ROOT)
    assert written == wanted, "run: python -m trainer_core.config.simpletuner.migration_docs"


def test_the_migration_page_names_every_option_that_is_not_simply_honoured() -> None:
    shown = migration_docs.page(ROOT)

    for name, row in OPTIONS.items():
        if not isinstance(row, Option) or row.unlike or row.alias_of:
            assert f"`{name}`" in shown, name
