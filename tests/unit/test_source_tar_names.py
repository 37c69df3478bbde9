"""What tar files and their folders are called."""

import pytest

from trainer_core.sources.tar_names import folder_name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://example.org/in/{00..11}.tar?signature=not/for-eyes", "tars-{00..11}.tar"),
        ("https://example.org/a.tar#not-for-eyes", "tars-a.tar"),
        ("https://example.org/{a?x=not-for-eyes", "tars-{a"),
        ("https://[not-for-eyes/a.tar", "tars-address"),
        ("/data/cats?/a.tar", "tars-a.tar"),
        ("someone/cats", "tars-cats"),
    ],
)
def test_no_query_of_an_address_is_in_the_name_of_a_folder(source: str, name: str) -> None:
    assert folder_name(source) == name
