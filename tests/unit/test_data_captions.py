"""The captions that each option leaves, against the rule of SimpleTuner's documentation."""

import hashlib
import random
import re
from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of
from trainer_core.config.plan import Backend
from trainer_core.data.captions import captions_of
from trainer_core.errors import BadCaptionError

TAGS = "dog, running, park,sunny day , dog"
PHOTOS = {"id": "photos", "caption_strategy": "textfile"}
CACHE = {"id": "texts", "dataset_type": "text_embeds", "default": True}


def backend_of(
    options: dict[str, Any], *, filters: Any = None, config: dict[str, Any] | None = None
) -> Backend:
    cache = CACHE if filters is None else {**CACHE, "caption_filter_list": filters}
    plan = import_small(config or {}, backends=[{**PHOTOS, **options}, cache]).plan
    return plan.identity.backends[0]


def read(options: dict[str, Any], text: str | None, path: str = "in/a_red_cat.jpg") -> list[str]:
    return list(captions_of(backend_of(options), path, text))


def filtered(filters: list[str], caption: str) -> list[str]:
    return list(captions_of(backend_of({}, filters=filters), "a.jpg", caption))


def test_each_line_is_a_caption_unless_it_is_switched_off() -> None:
    text = "\n a red cat \r\n\n\ta cat at noon\n"
    assert read({}, text) == ["a red cat", "a cat at noon"]
    assert read({"disable_multiline_split": True}, text) == ["a red cat \n\n\ta cat at noon"]
    assert read({"disable_multiline_split": "true"}, " \n") == []


@pytest.mark.parametrize("text", ["one\ntwo", None])
def test_the_prompt_is_the_only_caption(text: str | None) -> None:
    for way in ({"only_instance_prompt": True}, {"caption_strategy": "instanceprompt"}):
        both = {**way, "instance_prompt": "sks cat", "prepend_instance_prompt": True}
        assert read(both, text) == ["sks cat"]


def test_the_prompt_comes_before_every_caption_but_there_has_to_be_one() -> None:
    prompt = {"prepend_instance_prompt": True, "instance_prompt": "sks cat"}
    assert read(prompt, "on a wall\nat noon\n") == ["sks cat on a wall", "sks cat at noon"]
    assert read({**prompt, "caption_strategy": "filename"}, None) == ["sks cat a red cat"]
    assert read(prompt, None) == []
    missing = [{**PHOTOS, "prepend_instance_prompt": True}]
    assert problems_of({}, backends=missing) == [("/data_backends/0/instance_prompt", "missing")]
    run = {"prepend_instance_prompt": True, "instance_prompt": "of the run"}
    assert captions_of(backend_of({}, config=run), "a.jpg", "x") == ("of the run x",)
    own = backend_of({"prepend_instance_prompt": False}, config=run)
    assert captions_of(own, "a.jpg", "x") == ("x",)


def _variant(parts: list[str], fixed: int, seed: int, of: str) -> list[str]:
    moving = parts[fixed:]
    low = int(hashlib.md5(of.encode()).hexdigest(), 16) % 2**32
    random.Random(seed + low).shuffle(moving)
    return parts[:fixed] + moving


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("fixed", [0, 1, 3])
def test_parts_are_shuffled_by_the_seed_and_the_first_stay(fixed: int, original: bool) -> None:
    how = {"enable": True, "count": 3, "seed": 11, "position_start": fixed}
    found = read({"caption_shuffle": {**how, "include_original": original}}, TAGS)

    parts = ["dog", "running", "park", "sunny day", "dog"]
    wanted = [TAGS] if original else []
    wanted += [", ".join(_variant(parts, fixed, 11 + i, TAGS)) for i in range(3)]
    assert found == list(dict.fromkeys(wanted))


@pytest.mark.parametrize(
    ("split_on", "text", "parts", "joint"),
    [
        ("space", "a b  c d e f g", list("abcdefg"), " "),
        ("period", "It runs. It sits. It sleeps.", ["It runs", "It sits", "It sleeps"], ". "),
    ],
)
def test_parts_are_split_as_asked(split_on: str, text: str, parts: list[str], joint: str) -> None:
    how = {"enable": "true", "split_on": split_on, "include_original": False, "count": 1}
    (found,) = read({"caption_shuffle": how}, text)
    assert sorted(found.split(joint)) == sorted(parts)


def test_a_prompt_comes_before_shuffled_parts_and_what_cannot_be_shuffled_stays() -> None:
    how = {"enable": True, "count": 2, "position_start": 1, "include_original": False}
    prompt = {"prepend_instance_prompt": True, "instance_prompt": "sks"}
    for caption in read({"caption_shuffle": how, **prompt}, "dog, a, b, c, d"):
        assert caption.startswith("sks dog, ")
        assert sorted(caption.removeprefix("sks dog, ").split(", ")) == ["a", "b", "c", "d"]
    assert read({"caption_shuffle": how}, "dog, cat") == ["dog, cat"]
    assert read({"caption_shuffle": {**how, "enable": False}}, "b, a, c") == ["b, a, c"]


def test_a_shuffle_without_a_seed_takes_that_of_the_run_or_none() -> None:
    def seed_of(run: int | None, how: dict[str, Any]) -> int:
        config = {} if run is None else {"seed": run}
        backend = backend_of({"caption_shuffle": {"enable": True, **how}}, config=config)
        assert backend.caption_shuffle is not None
        return backend.caption_shuffle.seed

    assert (seed_of(5, {}), seed_of(5, {"seed": "9"}), seed_of(-1, {})) == (5, 9, 0)


@pytest.mark.parametrize(
    ("shuffle", "at", "code"),
    [
        ({"enable": True, "split_on": "tab"}, "/split_on", "bad_value"),
        ({"enable": True, "count": 0}, "/count", "bad_value"),
        ({"enable": True, "count": 101}, "/count", "bad_value"),
        ({"enable": True, "position_start": -1}, "/position_start", "bad_value"),
        ({"enable": True, "shufle": 1}, "/shufle", "unknown_option"),
        ([1], "", "bad_value"),
    ],
)
def test_a_wrong_shuffle_is_pointed_at(shuffle: Any, at: str, code: str) -> None:
    backends = [{**PHOTOS, "caption_shuffle": shuffle}]
    assert problems_of({}, backends=backends) == [(f"/data_backends/0/caption_shuffle{at}", code)]


@pytest.mark.parametrize(
    ("filters", "caption", "left"),
    [
        (["arafed "], "arafed cat on an arafed mat", "cat on an mat"),
        (["this .* has a"], "see this red cat has a tail", "see  tail"),
        (["^there is "], "there is a cat, there is", "a cat, there is"),
        (["s/this/that/"], "this and this", "that and this"),
        (["s/this/that"], "this and this", "that and this"),
        (["s/this/that/g"], "this and this", "that and that"),
        ([r"s/(\w+) cat/\1 dog/"], "a red cat", "a red dog"),
        (["s/ (cat/ dog/"], "a (cat", "a dog"),
        (["cat (old"], "a cat (old one)", "a  one)"),
        (["cat.", "a.c"], "cat. a cat; abc", "a"),
        (["s/a/b/", "b"], "a b", ""),
        ([r"\d+ px"], "640 px wide", "wide"),
    ],
)
def test_terms_and_expressions_are_removed_or_replaced(
    filters: list[str], caption: str, left: str
) -> None:
    # The rule again with Python's own expressions: each entry in order, and blank ends go.
    text = caption
    for entry in filters:
        if found := re.fullmatch("s/([^/]*)/([^/]*)(/g?)?", entry):
            try:
                text = re.sub(found[1], found[2], text, count=int(found[3] != "/g"))
            except re.error:
                text = text.replace(found[1], found[2], 1)
            continue
        text = text.replace(entry, "")
        try:
            text = re.sub(entry, "", text)
        except re.error:
            continue
    assert text.strip() == left.strip()
    assert filtered(filters, caption) == ([left.strip()] if left.strip() else [])


def test_a_filter_sees_the_prompt_and_equal_captions_become_one() -> None:
    prompt = {"prepend_instance_prompt": True, "instance_prompt": "sks"}
    backend = backend_of(prompt, filters=["sks a", "b"])
    assert captions_of(backend, "x.jpg", "a cat\ncat\na bcat\n") == ("cat", "sks cat")


def test_replacements_cannot_fill_the_memory() -> None:
    doubling = ["s/(?s)(.*)/\\1\\1" + " " * n + "/" for n in range(40)]
    with pytest.raises(BadCaptionError, match="more than 20000"):
        filtered(doubling, "abc")


@pytest.mark.parametrize(
    ("filters", "at"),
    [
        ("words.txt", ""),
        ([1], ""),
        (["fine", "a(?=b)"], "/1"),
        ([r"(a)\1"], "/0"),
        ([r"s/(a)/\2/"], "/0"),
        (["x" * 1001], "/0"),
        ([f"{n}" for n in range(1001)], ""),
    ],
)
def test_a_wrong_filter_is_pointed_at(filters: Any, at: str) -> None:
    backends = [PHOTOS, {**CACHE, "caption_filter_list": filters}]
    wanted = (f"/data_backends/1/caption_filter_list{at}", "bad_value")
    assert problems_of({}, backends=backends) == [wanted]


def test_filters_are_those_of_the_text_cache_that_a_backend_uses() -> None:
    other = {"id": "other", "dataset_type": "text_embeds", "caption_filter_list": ["two"]}
    backends = [
        {**PHOTOS, "id": "first"},
        {**PHOTOS, "id": "second", "text_embeds": "other"},
        {**CACHE, "caption_filter_list": ["one"]},
        other,
    ]
    first, second = import_small(backends=backends).plan.identity.backends
    assert (first.caption_filters, second.caption_filters) == (("one",), ("two",))
    off = import_small(backends=[PHOTOS, {**other, "disabled": True}]).plan
    assert off.identity.backends[0].caption_filters == ()


def test_filters_of_images_are_refused_and_plain_text_is_told() -> None:
    wrong = [{**PHOTOS, "caption_filter_list": ["x"]}, CACHE]
    wanted = ("/data_backends/0/caption_filter_list", "conflict")
    assert problems_of({}, backends=wrong) == [wanted]
    plain = [PHOTOS, {**CACHE, "caption_filter_list": ["(old"]}]
    (told,) = [text for text in notices_of(backends=plain) if "caption_filter" in text]
    assert "are taken as plain text" in told
    assert "(old" in told


def test_plans_without_these_options_are_what_they_were() -> None:
    written = backend_of({}).model_dump(mode="json")
    assert not {name for name in Backend.left_out if name in written}
    assert Backend.model_validate(written) == backend_of({})
    shuffled = backend_of({"caption_shuffle": {"enable": True}, "disable_multiline_split": True})
    assert Backend.model_validate(shuffled.model_dump(mode="json")) == shuffled
