"""Where the options of a sweep are in a run request, and what its problems point to."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.errors import InvalidRequestError
from services.domain.sweep_rows import Choice
from services.domain.swept_documents import (
    Path,
    differing,
    find_options,
    pointer_in_sweep,
    with_row,
)

BASE: dict[str, Any] = {
    "config": {"--learning_rate": 1e-4, "seed": 42},
    "lycoris_config": {
        "linear_dim": 16,
        "apply_preset": {"name_algo_map": {"*.ff_t.*": {"factor": 4}}},
    },
    "data_backends": [{"id": "cats.v2", "--resolution": 512}, {"id": "cats", "resolution": 256}],
    "prompt_library": None,
    "datasets": {"cats.v2": "ds_1", "cats": "ds_2"},
    "metadata": {},
    "priority": "normal",
}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("learning_rate", ("config", "--learning_rate")),
        ("--learning_rate", ("config", "--learning_rate")),
        ("--seed", ("config", "seed")),
        ("max_train_steps", ("config", "max_train_steps")),
        ("lycoris_config.linear_dim", ("lycoris_config", "linear_dim")),
        ("lycoris_config.factor", ("lycoris_config", "factor")),
        (
            "lycoris_config.apply_preset.name_algo_map.*.ff_t.*.factor",
            ("lycoris_config", "apply_preset", "name_algo_map", "*.ff_t.*", "factor"),
        ),
        ("data_backends.cats.v2.resolution", ("data_backends", 0, "--resolution")),
        ("data_backends.cats.crop", ("data_backends", 1, "crop")),
        ("datasets.cats.v2", ("datasets", "cats.v2")),
        ("prompt_library.hat", ("prompt_library", "hat")),
    ],
)
def test_an_option_is_found_where_it_is_written(name: str, path: Path) -> None:
    before = copy.deepcopy(BASE)
    paths = find_options(BASE, [name])

    changed = with_row(BASE, {name: Choice(value="new", position=3)}, paths)

    assert paths == {name: path}
    value: Any = changed
    for part in path:
        value = value[part]
    assert value == "new"
    assert before == BASE
    assert [key for key in BASE if changed[key] != BASE[key]] == [path[0]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["data_backends.cast.crop"], "There is no data backend cast. Did you mean cats?"),
        (["data_backends.cats"], "Name an option of data_backends.cats."),
        (["lycoris_config."], "Name an option of lycoris_config."),
        (["lycoris_config.linear_dim.x"], "lycoris_config.linear_dim has no options."),
        (["--seed", "seed"], "seed and --seed are the same option"),
        (["lycoris_config.apply_preset", "lycoris_config.apply_preset.x"], "a part of the other"),
    ],
)
def test_an_option_that_cannot_be_swept_is_named(names: list[str], message: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        find_options(BASE, names)
    (problem,) = raised.value.problems
    assert problem.pointer == f"/sweep/options/{names[-1]}"
    assert message in problem.message


def test_problems_point_to_the_value_of_the_sweep_or_into_the_base() -> None:
    drawn = Choice(value=0, position=None)
    row = {
        "learning_rate": Choice(value=0, position=2),
        "data_backends.cats.crop": drawn,
        "lycoris_config.apply_preset": Choice(value={"a": 1}, position=0),
    }
    paths = find_options(BASE, row)

    assert [
        pointer_in_sweep(pointer, row, paths)
        for pointer in (
            "/config/--learning_rate",
            "/config/--learning_rate_end",
            "/data_backends/1/crop",
            "/lycoris_config/apply_preset/a",
            "/config",
        )
    ] == [
        "/sweep/options/learning_rate/2",
        "/base/config/--learning_rate_end",
        "/sweep/options/data_backends.cats.crop",
        "/sweep/options/lycoris_config.apply_preset/0/a",
        "/base/config",
    ]


def test_what_differs_is_named_as_in_a_sweep() -> None:
    names = ["learning_rate", "lycoris_config.linear_dim", "data_backends.cats.crop"]
    row = {name: Choice(value=9, position=0) for name in names}
    other = with_row(BASE, row, find_options(BASE, names)) | {"metadata": {"who": "ada"}}

    found = differing([BASE, other, other])

    assert found[0] == {
        "learning_rate": 1e-4,
        "lycoris_config.linear_dim": 16,
        "data_backends.cats.crop": None,
        "metadata.who": None,
    }
    assert found[1] == found[2] == {**dict.fromkeys(names, 9), "metadata.who": "ada"}
    assert differing([BASE]) == [{}]


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=300)), max_size=5))
def test_what_differs_is_short_and_of_every_run(configs: list[dict[str, str]]) -> None:
    found = differing([{**BASE, "config": config} for config in configs])

    assert len(found) == len(configs)
    assert len({tuple(each) for each in found}) <= 1
    for each in found:
        assert len(each) <= 30
        assert all(len(str(value)) <= 201 for value in each.values())
