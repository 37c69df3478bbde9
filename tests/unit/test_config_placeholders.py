"""Marks that somebody meant to replace, and those that are replaced."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, problems_of
from trainer_core.config.simpletuner.placeholders import (
    Filling,
    filled_backends,
    filled_config,
    replaced_in,
    unfilled_tokens,
    unset_message,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a photo of <token> and <token>", ("<token>",)),
        ("<Subject name> beside <other_one>", ("<Subject name>", "<other_one>")),
        ("I <3 you, a<b and b>c, < token >, <>, <1>", ()),
        ("", ()),
    ],
)
def test_marks_are_found_once_each(text: str, tokens: tuple[str, ...]) -> None:
    assert unfilled_tokens(text) == tokens


CONFIG = {"--model_family": "hidream", "output_dir": "{env:OUT}/run", "lr": 1e-4}
BACKENDS = [
    {"id": "cats", "instance_data_dir": "{env:DATA_ROOT}/{id}", "crop": False},
    {"--id": 7, "cache_dir_vae": "{output_dir}/{model_family}/{id}/{other}", "x": ["{id}", {}]},
    "no backend",
]


def test_the_placeholders_of_simpletuner_are_replaced() -> None:
    filling = Filling(env={"OUT": "/out", "DATA_ROOT": "/data", "UNUSED": "x"})
    config = filled_config(CONFIG, filling)

    assert config == {**CONFIG, "output_dir": "/out/run"}
    assert filled_backends(BACKENDS, config, filling) == [
        {"id": "cats", "instance_data_dir": "/data/cats", "crop": False},
        {"--id": 7, "cache_dir_vae": "/out/run/hidream/7/{other}", "x": ["7", {}]},
        "no backend",
    ]
    assert filling.used == {
        "OUT": "/config/output_dir",
        "DATA_ROOT": "/data_backends/0/instance_data_dir",
    }
    assert not filling.unset


def test_an_unset_variable_is_kept_and_told() -> None:
    filling = Filling(env={"OUT": ""})
    config = filled_config({"a": "{env:OUT}{env:GONE}", "b/c": "{env:GONE}"}, filling)

    assert config == {"a": "{env:GONE}", "b/c": "{env:GONE}"}
    assert filling.unset == [("/config/a", "GONE"), ("/config/b~1c", "GONE")]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a {env:HOME} b {id}", "{env:HOME}"),
        ("{other}/{id}", "{id}"),
        ("{model_family}", "{model_family}"),
        ("{output_dir}", "{output_dir}"),
        ("{ID} {} {a b} id", None),
    ],
)
def test_a_text_that_would_be_replaced_is_found(text: str, first: str | None) -> None:
    filled = filled_backends([{"id": "cats", "x": text}], {}, Filling(env={"HOME": "/h"}))

    assert replaced_in(text) == first
    assert (filled[0] != {"id": "cats", "x": text}) == (first is not None)


def test_a_variable_without_a_name_is_told() -> None:
    assert unset_message("") == (
        "{env:} names no environment variable. Write {env:NAME}, or the value."
    )


def test_what_is_not_given_has_simpletuners_default() -> None:
    backends = [{"cache_dir": "{output_dir}/{id}/{model_family}"}]

    assert filled_backends(backends, {}, Filling(env={})) == [
        {"cache_dir": "simpletuner-results/{id}/hidream"}
    ]


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("http", "refused", "`reverie runs submit` replaces it on your machine"),
        ("local", "missing", "the environment variable ROOT is not set"),
    ],
)
def test_a_variable_that_is_left_is_a_problem(source: str, code: str, words: str) -> None:
    config = {"tracker_run_name": "{env:ROOT}", "train_batch_size": "{env:ROOT}"}
    backend = {"id": "cats", "caption_strategy": "instanceprompt", "instance_prompt": "{env:ROOT}",
               "instance_data_dir": "x"}  # fmt: skip
    more: dict[str, Any] = {"backends": [backend], "source": source}

    assert problems_of(config, **more) == [
        ("/config/tracker_run_name", code),
        ("/config/train_batch_size", code),
        ("/data_backends/0/instance_prompt", code),
    ]
    assert all(words in text for _, text in problems_of(config, messages=True, **more))


def test_the_service_replaces_what_needs_no_environment() -> None:
    backend = {"id": "cats", "caption_strategy": "instanceprompt", "instance_prompt": "a {id}"}

    assert import_small(backends=[backend]).plan.identity.backends[0].instance_prompt == "a cats"
