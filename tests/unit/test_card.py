"""The card describes a run of any kind; text of a tenant can change nothing else in it."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.jobs import demo_plan
from trainer_core.base_models.describe import read_base_model
from trainer_core.base_models.known import FOURTH_ENCODER
from trainer_core.base_models.layout import FOURTH
from trainer_core.config.plan import EmaPlan, LoraAdapter, Objective, Plan, StartAdapter
from trainer_core.data.cut_captions import CutCaptions
from trainer_core.export.card import render_card
from trainer_core.export.card_facts import card_facts
from trainer_core.export.origin import Weights
from trainer_core.validation.evaluations import Evaluated, Evaluations


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=128)


def facts(
    plan: Plan,
    prompt: str = "a cat",
    weights: Weights = "live",
    captions: CutCaptions | None = None,
    evaluations: Evaluations | None = None,
) -> dict[str, Any]:
    operation = plan.operation.model_copy(update={"sample_prompt": prompt})
    probe: dict[str, Any] = {"mean": 0.5, "held_out_mean": 0.25, "losses": [0.5] * 64}
    return card_facts(
        plan.model_copy(update={"operation": operation}),
        step=10,
        loss_before=probe,
        loss_after=probe,
        trainable_parameters=7704,
        trainable_modules=24,
        weights=weights,
        matmul="fp8",
        captions=captions,
        evaluation=None if evaluations is None else evaluations.as_facts(),
    )


def test_pictures_of_the_training_are_shown_and_their_text_adds_no_markup(plan: Plan) -> None:
    card = render_card(facts(plan))
    assert "## While it trained" not in card
    prompts = {"cat": "a `cat` | ![x](y)\n# end", "none": ""}
    shown = {"path": "samples/contact-sheet.png", "prompts": prompts}

    card = render_card({**facts(plan), "pictures": shown})

    section = card.split("## While it trained")[1].split("\n## ")[0]
    assert "![Pictures by step and prompt](samples/contact-sheet.png)" in section
    assert "| `cat` | `a 'cat' ¦ ![x](y) # end` |\n| `none` | (no prompt) |" in section


def test_rescaled_guidance_is_told(plan: Plan) -> None:
    operation = plan.operation.model_copy(update={"sample_guidance_rescale": 0.7})

    card = render_card(facts(plan.model_copy(update={"operation": operation})))

    assert "guidance 3.0 rescaled by 0.7, seed" in card
    assert "rescaled" not in render_card(facts(plan))


def front_matter(card: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match is not None
    loaded = yaml.safe_load(match[1])
    assert isinstance(loaded, dict)
    return loaded


def test_the_card_shows_the_first_the_best_and_the_last_evaluation(plan: Plan) -> None:
    found = Evaluations(basis="b")
    for step, mean in [(0, 2.0), (5, 0.5), (8, 0.75), (10, 1.0)]:
        interval = {} if step == 10 else {"low": mean - 0.25, "high": mean + 0.25}
        one = Evaluated.model_validate(
            {"step": step, "mean": mean, "low": None, "high": None, **interval}
        )
        found = found.with_newest(one)
    described = facts(plan, evaluations=found)

    card = render_card(described)

    assert described["evaluation"]["best_step"] == 5
    assert described["evaluation"]["best_checkpoint_step"] is None
    assert [each["step"] for each in described["evaluation"]["measured"]] == [0, 5, 8, 10]
    assert "| 0 | 2.000000 | 1.750000 to 2.250000 |" in card
    assert "| 5 (the lowest) | 0.500000 | 0.250000 to 0.750000 |" in card
    assert "| 10 | 1.000000 | - |" in card
    assert "| 8 " not in card
    assert "## Evaluation" not in render_card(facts(plan))


def test_the_card_says_how_many_captions_were_cut_and_names_no_file(plan: Plan) -> None:
    cut = CutCaptions(
        captions=40,
        cut=3,
        longest_tokens=402,
        num_images=1,
        first=("private/a.png",),
        is_exact=True,
        by_encoder={"text_encoder_3": (3, 300)},
    )
    card = render_card(json.loads(json.dumps(facts(plan, captions=cut))))
    estimated = render_card(facts(plan, captions=replace(cut, is_exact=False)))
    none_cut = render_card(facts(plan, captions=replace(cut, cut=0)))

    assert (
        "3 of 40 captions were longer than the 128 tokens that the text encoders take, and were "
        "cut off there; the longest had 402."
    ) in card
    assert "private" not in card
    assert "were probably longer" in estimated
    assert "Captions" not in none_cut + render_card(facts(plan))


def test_the_card_describes_the_run(plan: Plan) -> None:
    card = render_card(json.loads(json.dumps(facts(plan))))

    head = front_matter(card)
    assert {"lokr", "lycoris"} <= set(head["tags"])
    assert head["widget"][0]["output"]["url"] == "samples/0.png"
    assert "base_model" not in head  # the tiny model is on no Hub
    assert "| all 64 fixed samples | 0.500000 | 0.500000 |" in card
    assert "optimi-lion" in card
    assert "| base_model_matmul_precision | `fp8` |" in card
    assert "Llama 3.1 Community License" in card
    assert "init_lora" not in card
    start = plan.identity.model_copy(update={"start_adapter": StartAdapter(sha256="7" * 64)})
    started = facts(plan.model_copy(update={"identity": start}))
    assert f"| init_lora | `SHA-256 {'7' * 64}` |" in render_card(json.loads(json.dumps(started)))


def test_the_real_base_model_is_linked(plan: Plan) -> None:
    card_data = facts(plan) | {"base_model": {"name": "HiDream-ai/HiDream-I1-Full", "digest": "0"}}

    assert front_matter(render_card(card_data))["base_model"] == "HiDream-ai/HiDream-I1-Full"


@pytest.mark.parametrize("kind", ["lokr", "lora", "full"])
def test_the_code_on_the_card_is_python(plan: Plan, kind: str) -> None:
    card = render_card(facts(plan, prompt='say "hi"\n') | {"model_type": kind})

    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(code, "card", "exec")


@pytest.mark.parametrize("kind", ["lokr", "lora", "full"])
def test_the_code_loads_the_fourth_encoder_that_local_runs_take(plan: Plan, kind: str) -> None:
    card = render_card(facts(plan) | {"model_type": kind})

    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    nodes = list(ast.walk(ast.parse(code)))
    (llama,) = [
        ast.literal_eval(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "llama"
    ]
    subfolders = {
        ast.unparse(node.func): ast.literal_eval(keyword.value)
        for node in nodes
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) == "llama"
        for keyword in node.keywords
        if keyword.arg == "subfolder"
    }
    assert llama == FOURTH_ENCODER
    assert subfolders == {
        "LlamaForCausalLM.from_pretrained": FOURTH[0],
        "AutoTokenizer.from_pretrained": FOURTH[1],
    }


@pytest.mark.parametrize(
    "prompt",
    [
        "---\nlicense: other",
        "`a` | **b** ```\n# c",
        '"; import os #',
        "日本語 {x} \U0001f600\u2028",
    ],
)
def test_a_prompt_adds_no_markup_to_the_card(plan: Plan, prompt: str) -> None:
    card = render_card(facts(plan, prompt=prompt))

    head = front_matter(card)
    assert head["license"] == "mit"
    assert head["widget"][0]["text"] == prompt
    assert card.split("## Use")[0].count("\n# ") == 1
    assert card.count("```") == 2
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (call,) = [
        n
        for n in ast.walk(ast.parse(code))
        if isinstance(n, ast.Call)
        and n.args
        and isinstance(n.func, ast.Name)
        and n.func.id == "pipe"
    ]
    assert ast.literal_eval(call.args[0]) == prompt


def with_identity(plan: Plan, **changes: Any) -> Plan:
    return plan.model_copy(update={"identity": plan.identity.model_copy(update=changes)})


LORA = LoraAdapter(
    rank=8, alpha=4.0, dropout=0.1, init="default", modules=("caption_projection.0.linear",)
)


def test_a_lora_is_loaded_by_diffusers(plan: Plan) -> None:
    card = render_card(facts(with_identity(plan, model_type="lora", adapter=LORA)))

    assert {"lora", "template:sd-lora"} <= set(front_matter(card)["tags"])
    assert "# LoRA adapter of" in card
    assert "| lora_alpha | `4.0` |" in card
    assert 'pipe.load_lora_weights(".", weight_name="pytorch_lora_weights.safetensors"' in card
    assert "lycoris" not in card


def test_ema_weights_are_named_on_the_card(plan: Plan) -> None:
    ema = EmaPlan(decay=0.995, warmup_steps=0, update_interval=1)
    averaged = render_card(facts(with_identity(plan, ema=ema), weights="ema"))

    assert "running mean (EMA)" in averaged
    assert "| ema_decay | `0.995` |" in averaged
    assert "EMA" not in render_card(facts(plan))


def test_the_card_shows_the_objective(plan: Plan) -> None:
    objective = plan.identity.objective.model_dump() | {
        "loss": "huber",
        "huber_c": 0.25,
        "auto_shift": True,
        "balance_weight": 0.01,
        "masked_loss_probability": 0.5,
    }
    backend = plan.identity.backends[0].model_copy(update={"masks": "cut-outs"})
    changed = with_identity(
        plan, objective=Objective.model_validate(objective), backends=(backend,)
    )

    card = render_card(facts(changed))

    assert "| loss_type | `huber` |" in card
    assert "| huber_c | `0.25, " in card
    assert "| flow_schedule_auto_shift | `True` |" in card
    assert "| flow_schedule_shift |" not in card
    assert "| balance_weight | `0.01` |" in card
    assert "| masked_loss_probability | `0.5` |" in card
    assert "Pseudo-Huber loss of the velocity where the masks count; images" in card
    plain = render_card(facts(plan))
    assert "Mean squared error of the velocity; images" in plain
    assert "huber_c" not in plain
    assert "masked_loss_probability" not in plain
    assert "| flow_schedule_shift |" in plain


def test_the_card_of_a_decomposed_lokr_names_its_rank_and_multiplier(plan: Plan) -> None:
    adapter: Any = plan.identity.adapter
    low = tuple(m.model_copy(update={"full_matrix": False, "dim": 4}) for m in adapter.modules)
    changes = {"modules": low, "full_matrix": False, "linear_dim": 4, "multiplier": 0.5}
    card_data = facts(with_identity(plan, adapter=adapter.model_copy(update=changes)))

    card = render_card(card_data)

    assert "| lokr_dim | `4` |" in card
    assert "| lokr_multiplier | `0.5` |" in card
    assert "network.merge_to(1.0)" in card


def test_a_card_of_an_older_release_still_renders(plan: Plan) -> None:
    """Its file holds no multiplier, and its facts do not say which weights it has."""
    old = facts(plan) | {"multiplier": 0.5}
    del old["weights"]

    assert "network.merge_to(0.5)" in render_card(old)
