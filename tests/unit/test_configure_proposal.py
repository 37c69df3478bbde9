"""What `reverie configure` proposes: a pure function of answers, pictures and card."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.cli.configure_answers import Answers
from services.cli.configure_pictures import Picture, Pictures
from services.cli.configure_proposal import Proposal, propose
from tests.unit.config_examples import BASE_MODELS
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.config.simpletuner.importer import Imported, import_run
from trainer_core.config.simpletuner.options import OPTIONS

FOLDER = Path("/home/ada/photos")
ANSWERS = Answers(
    pictures=FOLDER,
    goal="subject",
    card_gb=48,
    trigger_word="ohwx dog",
    output=Path("/home/ada/config"),
)
SQUARE, WIDE, HALF, TINY = (1024, 1024), (1600, 900), (600, 600), (200, 200)
NOT_OF_SIMPLETUNER = {
    name for name, row in OPTIONS.items() if row.reason.startswith("Reverie's own")
}


def pictures(
    *sizes: tuple[int, int], caption: str | None = None, name: str = "IMG_{}.jpg", **more: Any
) -> Pictures:
    """Pictures of these sizes; ``caption`` is in a text file beside each."""
    usable = tuple(
        Picture(
            name=name.format(number),
            width_px=width,
            height_px=height,
            captions=() if caption is None else (caption,),
            caption_file=None if caption is None else f"IMG_{number}.txt",
        )
        for number, (width, height) in enumerate(sizes)
    )
    return Pictures(folder=FOLDER, usable=usable, **{"broken": {}, **more})


def proposed(found: Pictures, **answers: Any) -> Proposal:
    return propose(replace(ANSWERS, **answers), found)


def config(found: Pictures, **answers: Any) -> Any:
    return proposed(found, **answers).files["config.json"]


def imported(proposal: Proposal) -> Imported:
    """The files as a run reads them; raises PlanError for a mistake in them."""
    return import_run(
        config=proposal.files["config.json"],
        lycoris_config=proposal.files.get("lycoris_config.json"),
        data_backends=proposal.files["multidatabackend.json"],
        prompt_library=None,
        base_models=BASE_MODELS,
        source="local",
    )


def reason(proposal: Proposal, topic: str) -> str:
    (found,) = (choice.reason for choice in proposal.choices if choice.topic == topic)
    return found


@pytest.mark.parametrize(
    ("goal", "card_gb", "adapter"),
    [
        ("concept", 12, "lokr"),
        ("style", 24, "lora"),
        ("subject", 24, "lokr"),
        ("style", 80, "lokr"),
    ],
)
def test_no_option_acts_differently_and_simpletuner_has_every_one(
    goal: str, card_gb: int, adapter: str
) -> None:
    found = pictures(*[SQUARE] * 6, *[WIDE] * 6, *[TINY] * 2, caption="an ohwx dog")
    proposal = proposed(found, goal=goal, card_gb=card_gb, adapter=adapter)

    notices = imported(proposal).notices
    assert [each.text for each in notices if each.effect != "handled"] == []
    own = NOT_OF_SIMPLETUNER & proposal.files["config.json"].keys()
    assert own == ({"base_model_matmul_precision"} if card_gb == 12 else set())
    text_cache = proposal.files["multidatabackend.json"][-1]
    assert (text_cache["dataset_type"], text_cache["default"]) == ("text_embeds", True)
    assert all(choice.reason for choice in proposal.choices)
    assert proposal == proposed(found, goal=goal, card_gb=card_gb, adapter=adapter)


@pytest.mark.parametrize(
    ("card_gb", "base", "in_8_bits"),
    [
        (16, "int8-quanto", True),
        (24, "int8-quanto", False),
        (48, "no_change", False),
    ],
)
def test_the_base_is_held_in_the_best_precision_that_fits(
    card_gb: int, base: str, in_8_bits: bool
) -> None:
    written = config(pictures(*[SQUARE] * 12), card_gb=card_gb)

    assert written["resolution"] == 1024
    assert written["base_model_precision"] == base
    assert written.get("text_encoder_4_precision", "no_change") == base
    assert ("base_model_matmul_precision" in written) == in_8_bits


@pytest.mark.parametrize(
    ("sizes", "edge_px", "minimum_px", "words"),
    [
        ([SQUARE] * 10, 1024, 0, "HiDream's own size"),
        ([SQUARE] * 10 + [TINY] * 2, 1024, 512, "2 pictures below 512 px"),
        ([SQUARE] * 6 + [HALF] * 4, 512, 0, "smaller than 768 px"),
        ([HALF] * 10, 512, 0, "smaller than 768 px"),
        ([TINY] * 10, 512, 0, "blurred"),
        ([(3000, 300)] * 10, 768, 0, "smaller than 1024 px"),
    ],
)
def test_the_resolution_is_one_that_most_of_the_pictures_have(
    sizes: list[tuple[int, int]], edge_px: int, minimum_px: int, words: str
) -> None:
    proposal = proposed(pictures(*sizes))
    written = proposal.files["config.json"]

    assert written["resolution"] == edge_px
    assert written["minimum_image_size"] == minimum_px
    assert words in reason(proposal, "resolution")
    assert written["validation_resolution"] == f"{edge_px}x{edge_px}"
    follows = "flow_schedule_auto_shift" in written
    assert follows == (edge_px != 1024)


@pytest.mark.parametrize(
    ("count", "goal", "samples"),
    [
        (3, "subject", 800),
        (24, "subject", 2400),
        (500, "subject", 4000),
        (24, "style", 1500),
        (150, "concept", 12_000),
        (2000, "style", 12_000),
    ],
)
def test_the_steps_follow_from_the_number_of_pictures(count: int, goal: str, samples: int) -> None:
    proposal = proposed(pictures(*[SQUARE] * count), goal=goal)
    written = proposal.files["config.json"]

    assert written["max_train_steps"] * written["train_batch_size"] == samples
    assert written["num_train_epochs"] == 0
    assert f"{count:,} pictures" in reason(proposal, "steps")
    saved = range(0, written["max_train_steps"] + 1, written["checkpoint_step_interval"])
    assert 5 <= len(saved) <= 17
    assert written["validation_step_interval"] == written["checkpoint_step_interval"]
    assert f"every {written['validation_step_interval']} steps" in reason(proposal, "sample")


@pytest.mark.parametrize("size", [(5000, 3), (300, 3000)])
def test_a_picture_of_an_odd_shape_is_told(size: tuple[int, int]) -> None:
    width, height = size
    one = reason(proposed(pictures(size)), "resolution")
    several = reason(proposed(pictures(*[SQUARE] * 3, (1200, 300), size, size)), "resolution")

    assert f"1 picture is more than 4 times as long as wide, such as IMG_0.jpg of {width} x" in one
    assert f"of {width} x {height} px" in one
    assert "2 pictures are more than 4 times" in several
    assert "times as long" not in reason(proposed(pictures((1200, 300))), "resolution")


def test_few_pictures_are_told_in_words() -> None:
    one = proposed(pictures(SQUARE, caption="a dog"))

    assert "1 picture, each seen" in reason(one, "steps")
    assert "That is few: with 10 to 30 pictures" in reason(one, "steps")
    assert reason(one, "captions").startswith("1 of 1 picture has a text file")


def test_a_batch_has_several_pictures_where_the_card_and_every_bucket_can_fill_it() -> None:
    many = pictures(*[SQUARE] * 120)

    assert config(many, goal="style", card_gb=80)["train_batch_size"] == 4
    assert config(many, goal="style", card_gb=24)["train_batch_size"] == 1
    assert config(many, goal="subject", card_gb=80)["train_batch_size"] == 1
    lonely = pictures(*[SQUARE] * 120, WIDE, WIDE)
    assert config(lonely, goal="style", card_gb=80)["train_batch_size"] == 2


@pytest.mark.parametrize(
    ("goal", "count", "factor"), [("style", 20, 16), ("style", 300, 8), ("concept", 20, 8)]
)
def test_an_adapter_is_larger_where_there_is_much_to_learn(
    goal: str, count: int, factor: int
) -> None:
    proposal = proposed(pictures(*[SQUARE] * count), goal=goal)
    adapter = imported(proposal).plan.identity.adapter

    assert isinstance(adapter, LokrAdapter)
    assert {module.factor for module in adapter.modules} == {factor}
    assert len(adapter.modules) == 256


def test_lora_adapts_all_of_the_attention_and_needs_no_file_of_its_own() -> None:
    proposal = proposed(pictures(*[SQUARE] * 12), adapter="lora")
    adapter = imported(proposal).plan.identity.adapter

    assert isinstance(adapter, LoraAdapter)
    assert len(adapter.modules) == 256
    assert adapter.alpha == adapter.rank == 16
    assert "lycoris_config.json" not in proposal.files


@pytest.mark.parametrize(
    ("name", "caption", "strategy", "prompt", "sample"),
    [
        ("IMG_{}.jpg", "an ohwx dog", "textfile", None, "a photo of ohwx dog"),
        ("IMG_{}.jpg", None, "instanceprompt", "a photo of ohwx dog", "a photo of ohwx dog"),
        ("a_dog_on_grass_{}.jpg", None, "filename", None, "a photo of ohwx dog"),
        ("a_dog_on_grass_{}.jpg", "a dog", "textfile", None, "a photo of ohwx dog"),
    ],
)
def test_captions_are_taken_where_they_are(
    name: str, caption: str | None, strategy: str, prompt: str | None, sample: str
) -> None:
    proposal = proposed(pictures(*[SQUARE] * 10, name=name, caption=caption))
    (backend, _), written = (
        proposal.files["multidatabackend.json"],
        proposal.files["config.json"],
    )

    assert backend["caption_strategy"] == strategy
    assert backend.get("instance_prompt") == prompt
    assert written["validation_prompt"] == sample
    assert written["caption_dropout_probability"] == (0 if prompt else 0.1)


def test_a_few_text_files_are_no_captions_for_all() -> None:
    few = pictures(*[SQUARE] * 10)
    some = replace(few.usable[0], captions=("a dog",), caption_file="IMG_0.txt")
    proposal = proposed(replace(few, usable=(some, *few.usable[1:])))

    backend = proposal.files["multidatabackend.json"][0]
    assert backend["caption_strategy"] == "instanceprompt"
    assert "1 of 10 pictures has a text file" in reason(proposal, "captions")


def test_captions_without_the_trigger_word_are_told() -> None:
    without = proposed(pictures(*[SQUARE] * 3, caption="a dog on grass"))
    having = proposed(pictures(*[SQUARE] * 3, caption="an Ohwx Dog on grass"))

    assert 'No caption has "ohwx dog" in it' in reason(without, "captions")
    assert '3 of 3 captions have "ohwx dog"' in reason(having, "captions")


def test_without_a_trigger_word_the_sample_is_a_caption_that_is_not_long() -> None:
    found = pictures(SQUARE, SQUARE, caption="a dog on grass")
    long = replace(found.usable[0], captions=("very " * 100 + "long",))
    proposal = proposed(replace(found, usable=(long, found.usable[1])), trigger_word=None)

    assert proposal.files["config.json"]["validation_prompt"] == "a dog on grass"
    assert "user_prompt_library.json" not in proposal.files


def test_a_caption_that_would_be_replaced_is_no_sample() -> None:
    found = pictures(SQUARE, SQUARE, caption="a dog on grass")
    odd = replace(found.usable[0], captions=("{env:HOME} sweet home",))
    mixed = proposed(replace(found, usable=(odd, found.usable[1])), trigger_word=None)
    alone = proposed(replace(found, usable=(odd,)), trigger_word=None)

    assert mixed.files["config.json"]["validation_prompt"] == "a dog on grass"
    assert "{" not in alone.files["config.json"]["validation_prompt"]


def test_prompts_to_try_are_written_with_the_word_and_not_named_in_the_config() -> None:
    proposal = proposed(pictures(*[SQUARE] * 3))
    prompts = proposal.files["user_prompt_library.json"]

    with_word = [prompt for prompt in prompts.values() if "ohwx dog" in prompt]
    assert 0 < len(with_word) == len(prompts) - 1
    assert "user_prompt_library" not in proposal.files["config.json"]


def test_a_run_gets_links_where_a_file_would_end_it() -> None:
    found = pictures(*[SQUARE] * 4, caption="a dog", broken={"torn.jpg": "torn.jpg: torn"})
    bad = replace(
        found.usable[3], captions=(), caption_file=None, bad_caption="IMG_3.txt: not UTF-8"
    )
    proposal = proposed(replace(found, usable=(*found.usable[:3], bad)))

    names = [f"IMG_{number}" for number in range(3)]
    assert proposal.links == {
        f"pictures/{name}{suffix}": FOLDER / f"{name}{suffix}"
        for name in names
        for suffix in (".jpg", ".txt")
    }
    backend = proposal.files["multidatabackend.json"][0]
    assert backend["instance_data_dir"] == "config/pictures"
    for name in ("torn.jpg", "IMG_3.jpg"):
        assert name in reason(proposal, "pictures")
    assert proposed(pictures(*[SQUARE] * 4)).links == {}


def test_masks_are_used_where_every_picture_has_one() -> None:
    bare = pictures(*[SQUARE] * 3)
    masked = tuple(replace(each, mask=f"masks/{Path(each.name).stem}.png") for each in bare.usable)
    inside = proposed(replace(bare, usable=masked, masks=FOLDER))
    elsewhere = proposed(replace(bare, usable=masked, masks=Path("/home/ada/white")))
    partly = proposed(replace(bare, usable=(*masked[:2], bare.usable[2]), masks=FOLDER))

    assert inside.links["masks/IMG_0.png"] == FOLDER / "masks/IMG_0.png"
    assert imported(inside).plan.identity.backends[0].masks == "photos-masks"
    masks = elsewhere.files["multidatabackend.json"][1]
    assert (masks["instance_data_dir"], elsewhere.links) == ("white", {})
    # Among the pictures they would be trained on, so that links keep them out.
    assert partly.links.keys() == {f"pictures/IMG_{number}.jpg" for number in range(3)}
    assert imported(partly).plan.identity.backends[0].masks is None
    assert "1 of 3 pictures has none" in reason(partly, "masks")


@pytest.mark.parametrize(
    ("folder", "output", "named", "root", "id_"),
    [
        ("/home/ada/photos", "/home/ada/mine", "photos", "mine", "photos"),
        ("/home/ada/in/Cats & Dogs", "/home/ada/mine", "in/Cats & Dogs", "mine", "Cats-Dogs"),
        ("/elsewhere/写真", "/home/ada/mine", "/elsewhere/写真", "mine", "pictures"),
        ("/home/ada/photos", "/home/ada/config/ink", "/home/ada/photos", "config/ink", "photos"),
    ],
)
def test_paths_start_where_simpletuner_is_started(
    folder: str, output: str, named: str, root: str, id_: str
) -> None:
    found = replace(pictures(*[SQUARE] * 3), folder=Path(folder))
    proposal = proposed(found, pictures=Path(folder), output=Path(output))

    backend = proposal.files["multidatabackend.json"][0]
    assert (backend["instance_data_dir"], backend["id"]) == (named, id_)
    config = proposal.files["config.json"]
    assert config["lycoris_config"] == f"{root}/lycoris_config.json"
    assert config["data_backend_config"] == f"{root}/multidatabackend.json"
    imported(proposal)
