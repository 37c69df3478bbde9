"""The model card of a result or a checkpoint: README.md for the Hub. Imports no torch."""

from collections.abc import Mapping
from typing import Any, Final

from trainer_core.export.card_usage import usage_section
from trainer_core.export.markup import inline_code, quoted

_REAL_BASES: Final = "HiDream-ai/"
_KINDS: Final = {"lokr": "LoKr adapter", "lora": "LoRA adapter", "full": "full fine-tune"}


def render_card(facts: Mapping[str, Any]) -> str:
    """README.md of a result: YAML front matter, sample image, losses, settings, how to load it.

    ``facts`` is the content of ``card.json``. The prompt is the user's text. It is quoted, so that
    it can neither end the front matter nor add markup.
    """
    kind = _KINDS[facts["model_type"]]
    sections = (
        _front_matter(facts),
        f"# {kind} of {facts['base_model']['name']}",
        _summary(facts, kind),
        _sample(facts["sample"]),
        _pictures(facts.get("pictures")),
        _losses(facts["loss"], facts["options"]),
        _evaluation(facts.get("evaluation")),
        _captions(facts.get("captions")),
        _settings(facts["options"]),
        usage_section(facts),
        _LICENCE,
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(facts: Mapping[str, Any], kind: str) -> str:
    parameters, layers = facts["trainable_parameters"], facts["trainable_modules"]
    text = f"A {kind} of {parameters:,} parameters in {layers} layers, {facts['steps']} steps."
    if facts.get("weights") == "ema":
        text += " The weights are the running mean (EMA) over the training, not its last step's."
    return text


def _front_matter(facts: Mapping[str, Any]) -> str:
    sample = facts["sample"]
    is_adapter = facts["model_type"] != "full"
    tags = ["text-to-image", "hidream", "diffusers"]
    tags += {
        "lokr": ["lokr", "lycoris", "template:sd-lora"],
        "lora": ["lora", "template:sd-lora"],
        "full": ["full-rank"],
    }[facts["model_type"]]
    name = facts["base_model"]["name"]
    lines = ["---", "license: mit", "pipeline_tag: text-to-image"]
    if name.startswith(_REAL_BASES):  # the Hub checks that the repository exists
        lines += ["library_name: diffusers", f"base_model: {name}"]
        lines.append(f"base_model_relation: {'adapter' if is_adapter else 'finetune'}")
    lines += ["tags:", *(f"- {tag}" for tag in tags), "inference: false"]
    if sample["path"] is not None:
        lines += ["widget:", f"- text: {quoted(sample['prompt'] or 'unconditional')}"]
        lines += ["  output:", f"    url: {sample['path']}"]
    return "\n".join((*lines, "---"))


def _sample(sample: Mapping[str, Any]) -> str:
    if sample["path"] is None:
        return ""
    prompt = inline_code(sample["prompt"]) if sample["prompt"] else "(no prompt)"
    rescale = sample.get("guidance_rescale")
    rescaled = f" rescaled by {rescale:g}" if rescale else ""
    return (
        f"![Sample]({sample['path']})\n\n"
        f"Prompt: {prompt}; {sample['width_px']} by {sample['height_px']} px, "
        f"{sample['steps']} steps, guidance {sample['guidance']}{rescaled}, seed {sample['seed']}."
    )


def _pictures(pictures: Mapping[str, Any] | None) -> str:
    """The contact sheet of what the run painted while it trained; empty where there is none."""
    if not pictures:
        return ""
    prompts = pictures["prompts"].items()
    rows = [
        f"| {inline_code(name)} | {inline_code(text) if text else '(no prompt)'} |"
        for name, text in prompts
    ]
    return "\n".join(
        (
            "## While it trained",
            "",
            f"![Pictures by step and prompt]({pictures['path']})",
            "",
            "A row for each step, the base model's first; a column for each prompt.",
            "",
            "| name | prompt |",
            "| --- | --- |",
            *rows,
        )
    )


_MEASURES: Final = {
    "l2": "Mean squared error",
    "huber": "Pseudo-Huber loss",
    "smooth_l1": "Smooth L1 loss",
}


def _losses(loss: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    before, after = loss["before"] or {}, loss["after"]
    if after is None:
        return ""
    rows = ["## Loss", "", "| | before | after |", "| --- | --- | --- |"]
    for title, key in (("all 64 fixed samples", "mean"), ("on held-out images", "held_out_mean")):
        if after.get(key) is not None:
            rows.append(f"| {title} | {_number(before.get(key))} | {_number(after[key])} |")
    measure = _MEASURES[options["loss_type"]]
    where = " where the masks count" if options.get("masked_loss_probability") else ""
    explanation = f"{measure} of the velocity{where}; images, noise and noise levels are the same."
    rows += ["", explanation]
    return "\n".join(rows)


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    """First, best and last evaluation loss; empty where none was measured."""
    if not evaluation or not evaluation["measured"]:
        return ""
    measured = evaluation["measured"]
    shown = {each["step"]: each for each in (measured[0], measured[-1])}
    shown |= {e["step"]: e for e in measured if e["step"] == evaluation["best_step"]}
    rows = ["## Evaluation", "", "| step | loss | 95 % interval |", "| --- | --- | --- |"]
    for step, each in sorted(shown.items()):
        interval = "-" if each["low"] is None else f"{each['low']:.6f} to {each['high']:.6f}"
        best = " (the lowest)" if step == evaluation["best_step"] else ""
        rows.append(f"| {step}{best} | {_number(each['mean'])} | {interval} |")
    rows += ["", "Mean squared error of the velocity on the same images, noise and noise levels."]
    return "\n".join(rows)


def _captions(captions: Mapping[str, Any] | None) -> str:
    """What was lost of the captions; empty where nothing was, and in cards of older versions."""
    if not captions or not captions["cut"]:
        return ""
    about, maybe = ("about ", "probably ") if captions["is_estimate"] else ("", "")
    return (
        "## Captions\n\n"
        f"{captions['cut']} of {captions['number']} captions were {maybe}longer than the "
        f"{captions['limit_tokens']} tokens that the text encoders take, and were cut off there; "
        f"the longest had {about}{captions['longest_tokens']}."
    )


def _settings(options: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {inline_code(str(value))} |"
        for name, value in options.items()
        if value is not None
    ]
    return "\n".join(("## Settings", "", "| option | value |", "| --- | --- |", *rows))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


_LICENCE: Final = """\
## Licence

HiDream-I1 is published under the MIT licence. Its fourth text encoder, Llama 3.1 8B Instruct, is
not part of this repository and has the Llama 3.1 Community License; whoever runs the pipeline needs
to accept it. Built with Llama. The training images have rights of their own."""
