"""What `reverie configure` proposes for a folder of pictures: each value, and why.

A pure function: nothing is read or written here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, assert_never

from services.cli import configure_values as values
from services.cli.configure_answers import Adapter, Answers
from services.cli.configure_captions import captions_of, prompts_of
from services.cli.configure_card import EDGES_PX, Draft, Fitted, fit_to_card
from services.cli.configure_layout import (
    BACKENDS,
    CONFIG,
    LYCORIS,
    PICTURE_LINKS,
    PROMPTS,
    file_from_root,
    layout_of,
)
from services.cli.configure_pictures import Picture, Pictures
from services.cli.configure_values import Basis, Sized
from trainer_core.base_models.known import PUBLISHED
from trainer_core.in_words import counted, share_having
from trainer_core.memory.cards import fused_on
from trainer_core.memory.trained import trained_modules, trained_parameters

_FEW: Final = 10
_NAMED_AT_MOST: Final = 3
_MOST_NAME: Final = 60
_LONG: Final = 4
"""Sides of a picture: a longer one is told."""
_RATE_REASONS: Final[Mapping[Adapter, str]] = MappingProxyType(
    {
        "lokr": "SimpleTuner's guide has 2e-5 for LoKr with Lion, and 1e-4 with AdamW.",
        "lora": "SimpleTuner's guide has 4e-4 for ranks up to 8 and 6e-5 from 64 on; this is "
        "between them.",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One value, why it was chosen, and the options of config.json that say it."""

    topic: str
    value: str
    reason: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """The files of a run."""

    choices: tuple[Choice, ...]
    files: Mapping[str, Any]
    """Name → content; config.json is the last, because without it the others configure nothing."""
    links: Mapping[str, Path]
    """Path in the output folder → the file that a link there leads to."""


def propose(answers: Answers, pictures: Pictures) -> Proposal:
    """The files of a run, with a reason for each value.

    Args:
        answers: its paths are absolute; a trigger word where the pictures have no captions.
        pictures: what was found in their folder; at least one can be used.

    Raises CommandError where the card is too small.
    """
    captions = captions_of(pictures.usable, answers.goal, answers.trigger_word)
    layout = layout_of(answers, pictures, captions)
    basis = Basis(answers=answers, captions=captions, layout=layout)
    fitted = fit_to_card(
        answers.card_gb,
        basis.wanted_px,
        lambda draft: values.trial_of(basis, draft),
        may_batch=basis.may_batch,
    )
    choices = tuple(_choices(basis, pictures, fitted))
    files: dict[str, Any] = {BACKENDS: list(layout.data_backends)}
    if answers.adapter == "lokr":
        files[LYCORIS] = values.lycoris_config(basis.adapter)
    if answers.trigger_word is not None:
        files[PROMPTS] = prompts_of(answers.goal, answers.trigger_word)
    files[CONFIG] = {name: value for each in choices for name, value in each.options.items()}
    return Proposal(choices=choices, files=files, links=layout.links)


def _choices(basis: Basis, pictures: Pictures, fitted: Fitted) -> list[Choice]:
    """In the order in which config.json has their options."""
    draft = fitted.trial.draft
    found = [
        _base(basis, fitted),
        _adapter(basis, fitted),
        _resolution(basis, fitted),
        _captions(basis),
        _masks(basis, pictures),
        _links(basis, pictures),
        _steps(basis, fitted),
        _rate(basis, draft),
        _shift(draft),
        _saving(basis, draft),
        _sample(basis, draft),
    ]
    return [each for each in found if each is not None]


def _base(basis: Basis, fitted: Fitted) -> Choice:
    draft, card_gb = fitted.trial.draft, basis.answers.card_gb
    needs = f"{fitted.peak_gib:.0f} GiB"
    match draft.precision:
        case "bf16":
            value = "HiDream-I1-Full in 16 bits"
            reason = f"A card of {card_gb} GB holds it so: a run needs about {needs}."
        case "int8":
            value = "HiDream-I1-Full in 8 bits, text encoders 3 and 4 too"
            reason = (
                f"In 16 bits a run needs about {fitted.refused['bf16']:.0f} GiB, more than a card "
                f"of {card_gb} GB has; in 8 bits about {needs}."
            )
        case "int8 products":
            *others, last = fused_on(fitted.trial.plan)
            cards = f"{', '.join(others)} or {last}" if others else last
            value = "HiDream-I1-Full in 8 bits, multiplied in 8 bits"
            reason = (
                f"A run needs more than a card of {card_gb} GB has, so that the host holds what "
                f"is not in use. The card has to be of capability {cards}. SimpleTuner does not "
                f"have the option {values.MATMUL}, and needs 24 GB."
            )
        case _:
            assert_never(draft.precision)
    options = values.base_options(draft)
    return Choice(topic="base model", value=value, reason=reason, options=options)


def _adapter(basis: Basis, fitted: Fitted) -> Choice:
    identity, number = fitted.trial.plan.identity, basis.adapter.number
    parameters = trained_parameters(identity, PUBLISHED.transformer)
    modules = trained_modules(identity, PUBLISHED.transformer)
    reason = f"{parameters:,} parameters in {modules} layers."
    match basis.answers.adapter:
        case "lokr":
            value = f"LoKr of factor {number} on the attention"
            usual = "The size in SimpleTuner's guide. A smaller factor is a larger adapter."
            larger = "Twice the usual size on each side, for there is much to learn."
            reason += f" {larger if basis.is_large else usual}"
            reason += " Diffusers loads no LoKr: for that, --adapter lora."
        case "lora":
            value = f"LoRA of rank {number} on the attention"
            reason += " ComfyUI and diffusers load it."
        case _:
            assert_never(basis.answers.adapter)
    options = values.adapter_options(basis)
    return Choice(topic="adapter", value=value, reason=reason, options=options)


def _resolution(basis: Basis, fitted: Fitted) -> Choice:
    draft, buckets = fitted.trial.draft, fitted.trial.buckets
    edge_px, all_pictures = draft.edge_px, basis.captions.pictures
    sized = Sized.at(all_pictures, edge_px)
    enlarged = sum(picture.edge_px < edge_px for picture in sized.pictures)
    left_out = len(all_pictures) - len(sized.pictures)
    parts = []
    if edge_px < basis.wanted_px:
        parts.append(f"The card is too small for {basis.wanted_px} px.")
    elif edge_px == EDGES_PX[0]:
        parts.append("HiDream's own size, and most of the pictures are as large.")
    elif enlarged <= len(sized.pictures) // 3:
        parts.append(f"Most of the pictures are smaller than {_above(edge_px)} px.")
    if enlarged:
        parts.append(f"{counted(enlarged, 'picture is', 'pictures are')} enlarged to it.")
        if 2 * enlarged > len(sized.pictures):
            parts.append("The result will be blurred like they are: use larger ones if you can.")
    if left_out:
        parts.append(
            f"{counted(left_out, 'picture')} below {sized.minimum_px} px would be "
            "enlarged more than twice, and will be left out."
        )
    long = [each for each in sized.pictures if each.times_as_long > _LONG]
    if long:
        parts.append(_about_long(long))
    if len(buckets) == 1:
        (((width, height), _),) = buckets.items()
        parts.append(f"All are scaled to {width} x {height} px.")
    else:
        parts.append(
            f"Each is scaled to the nearest of {len(buckets)} shapes; only edges are cut off."
        )
    return Choice(
        topic="resolution",
        value=f"{edge_px} px, in {counted(len(buckets), 'shape')}",
        reason=" ".join(parts),
        options=values.size_options(basis, draft),
    )


def _about_long(pictures: Sequence[Picture]) -> str:
    longest = max(pictures, key=lambda each: each.times_as_long)
    size = f"{longest.width_px} x {longest.height_px} px"
    return (
        f"{counted(len(pictures), 'picture is', 'pictures are')} more than {_LONG} times as long "
        f"as wide, such as {longest.name[:_MOST_NAME]} of {size}: far from any shape that HiDream "
        "makes. Cut such pictures, or take them out."
    )


def _captions(basis: Basis) -> Choice:
    options = values.dropout_options(basis)
    dropped = (
        ""
        if basis.captions.strategy == "instanceprompt"
        else (" One in ten is dropped, so that guidance keeps working.")
    )
    return Choice(
        topic="captions",
        value=basis.captions.value,
        reason=basis.captions.reason + dropped,
        options=options,
    )


def _masks(basis: Basis, pictures: Pictures) -> Choice | None:
    if pictures.masks is None:
        return None
    used = basis.captions.pictures
    without = [picture.name for picture in used if picture.mask is None]
    if basis.layout.has_masks:
        reason = "Every picture has one. What is black in it is not learned."
        return Choice(topic="masks", value="used", reason=reason, options={})
    reason = (
        f"{share_having(len(without), len(used), 'picture')} none ({_some(without)}), and a run "
        "takes all or none. A white mask is as good as none."
    )
    return Choice(topic="masks", value="not used", reason=reason, options={})


def _links(basis: Basis, pictures: Pictures) -> Choice | None:
    layout, answers = basis.layout, basis.answers
    if not layout.links:
        return None
    parts = []
    if layout.left_out:
        many = counted(len(layout.left_out), "picture")
        parts.append(f"A run would end at {many} that cannot be used: {_some(layout.left_out)}.")
    if pictures.holds_masks:
        parts.append("A run would take the masks among the pictures for pictures.")
    parts.append(f"So it reads links to the others. Nothing in {answers.pictures.name} is changed.")
    return Choice(
        topic="pictures",
        value=f"links in {file_from_root(PICTURE_LINKS, answers.output)}",
        reason=" ".join(parts),
        options={},
    )


def _steps(basis: Basis, fitted: Fitted) -> Choice:
    draft, length = fitted.trial.draft, values.LENGTHS[basis.answers.goal]
    steps = values.steps_of(basis, draft)
    pictures = len(Sized.at(basis.captions.pictures, draft.edge_px).pictures)
    each = steps * draft.batch / pictures
    reason = (
        f"{counted(pictures, 'picture')}, each seen about {each:,.0f} times. A rule "
        f"of thumb for a {basis.answers.goal}: {length.each} times each, at least {length.least:,} "
        f"and at most {length.most:,} samples. Compare the checkpoints and take the best."
    )
    if pictures < _FEW:
        reason += " That is few: with 10 to 30 pictures the result varies more."
    batch = f" of {draft.batch} pictures" if draft.batch > 1 else ""
    options = values.step_options(basis, draft)
    return Choice(topic="steps", value=f"{steps:,}{batch}", reason=reason, options=options)


def _rate(basis: Basis, draft: Draft) -> Choice:
    options = values.rate_options(basis, draft)
    return Choice(
        topic="learning rate",
        value=f"{basis.adapter.rate:g} with {basis.adapter.optimizer}, after "
        f"{options['lr_warmup_steps']} steps of warm-up",
        reason=_RATE_REASONS[basis.answers.adapter],
        options=options,
    )


def _shift(draft: Draft) -> Choice:
    options = values.shift_options(draft)
    if values.AUTO_SHIFT in options:
        value, reason = "by the resolution", "SimpleTuner's guide has it so away from 1024 px."
    else:
        value, reason = "3", "HiDream-I1-Full was trained with it at 1024 px."
    return Choice(topic="noise shift", value=value, reason=reason, options=options)


def _saving(basis: Basis, draft: Draft) -> Choice:
    options = values.saving_options(basis, draft)
    return Choice(
        topic="checkpoints",
        value=f"every {options['checkpoint_step_interval']} steps, the last "
        f"{options['checkpoints_total_limit']} are kept",
        reason=f"A stopped run goes on from the last one. They go to {options['output_dir']}.",
        options=options,
    )


def _sample(basis: Basis, draft: Draft) -> Choice:
    options = values.sample_options(basis, draft)
    reason = (
        f"A picture of it is made before the first step and after every "
        f"{options['validation_step_interval']} steps, beside each checkpoint, so that you can "
        "compare them; the result has one too."
    )
    if basis.answers.trigger_word is not None:
        reason += f" {PROMPTS} has more, for `reverie generate --prompts`."
    else:
        reason += " It is a caption of the pictures."
    return Choice(
        topic="sample", value=options["validation_prompt"], reason=reason, options=options
    )


def _above(edge_px: int) -> int:
    """The next larger resolution."""
    return min(each for each in EDGES_PX if each > edge_px)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED_AT_MOST]) + (", …" if len(names) > _NAMED_AT_MOST else "")
