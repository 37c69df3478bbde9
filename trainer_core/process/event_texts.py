"""Events as lines of text, for the display of a local run and for the log of the process."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from trainer_core.in_words import duration, speed
from trainer_core.process.events import Event

_STAGES: Final = {
    "scanning": "checking images",
    "base_model": "base model",
    "loading": "loading the model",
    "checkpointing": "checkpoint",
    "sampling": "pictures",
    "finalizing": "writing the result",
}
"""Stage → the name shown, where it differs from the stage's own name."""
_EVALUATIONS: Final = {"probe": "validation"}
"""Name in an ``eval`` event → the name shown."""


def print_event(event: Event) -> None:
    """Print the lines of an event, each with its time in UTC, to stdout."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for line in lines_of(event):
        sys.stdout.write(f"{now} {line}\n")
    sys.stdout.flush()


def lines_of(event: Event) -> list[str]:
    """What a log shows of an event: one line for most of them."""
    data = event.data
    match event.name:
        case "plan":
            first = f"{data['steps']} steps, {data['trainable_parameters']:,} trained parameters"
            warnings = [f"warning: {text}" for text in data["warnings"]]
            return [first, *map(str, data["preparation"]), *warnings]
        case "stage":
            return [stage_name(event)]
        case "step":
            return [f"step {event.step}: {step_facts(event)}"]
        case "warning" | "failed":
            return [f"{event.name}: {data['message']}"]
        case "finished" | "stopped":
            return [f"{event.name} after step {event.step}"]
        case _:
            line = outcome_line(event)
            return [line] if line else []


def stage_name(event: Event) -> str:
    """The name shown for the stage of a ``stage`` event."""
    stage = str(event.data["stage"])
    return _STAGES.get(stage, stage)


def step_facts(event: Event) -> str:
    """``loss 0.5123, rate 4e-05, 1.20 s/step, 3 min 20 s left``; unknown ones are left out."""
    facts = []
    if (loss := event.data.get("loss")) is not None:
        facts.append(f"loss {loss:.4f}")
    if (balance := event.data.get("balance_loss")) is not None:
        facts.append(f"balance {balance:.4f}")
    facts.append(f"rate {event.data['learning_rate']:.3g}")
    if steps_per_s := event.data.get("steps_per_s"):
        facts.append(speed(steps_per_s))
    if (eta_s := event.data.get("eta_s")) is not None:
        facts.append(f"{duration(eta_s)} left")
    return ", ".join(facts)


def preview_facts(event: Event) -> str:
    """``boat at step 12 of 30 of its sampler: samples/preview.png`` of a ``preview`` event."""
    data = event.data
    done = f"{data['sampler_step']} of {data['sampler_steps']}"
    return f"{data['name']} at step {done} of its sampler: {data['path']}"


def outcome_line(event: Event) -> str:
    """The line shown for an event on either kind of console; empty for most events."""
    data = event.data
    match event.name:
        case "checkpoint":
            return f"step {event.step}: checkpoint saved"
        case "sample" if data.get("took_s") is not None:
            score, near = data.get("clip_score"), data.get("similarity")
            scored = "" if score is None else f", CLIP score {score:.4f}"
            scored += "" if near is None else f", similarity {near:.4f}"
            return f"step {event.step}: {data['path']} ({duration(data['took_s'])}{scored})"
        case "eval" if data.get("name") == "clip":
            return f"step {event.step}: {scores_text(data)}"
        case "eval" if data.get("name") == "evaluation":
            return f"step {event.step}: {evaluation_text(event.step, data)}"
        case "eval" if data.get("mean") is not None:
            held_out = data.get("held_out_mean")
            rest = "" if held_out is None else f", held out {held_out:.4f}"
            name = _EVALUATIONS.get(data["name"], data["name"])
            return f"step {event.step}: {name} loss {data['mean']:.4f}{rest}"
    return ""


def scores_text(data: Mapping[str, Any]) -> str:
    """``CLIP score 0.2841 (0.2513 to 0.3120, 4 pictures, trained weights)``.

    Where it is known ``, similarity 0.7101 (0.6513 to 0.7720)`` to the training pictures follows.
    """
    count = data.get("pictures")
    facts = f"{count} picture{'' if count == 1 else 's'}, {data.get('weights')} weights"
    score, near = _span(data, ""), _span(data, "similarity_")
    if score is None:
        return f"no CLIP score ({facts})"
    mean, low, high = score
    text = f"CLIP score {mean:.4f} ({low:.4f} to {high:.4f}, {facts})"
    if near is None:
        return text
    mean, low, high = near
    return f"{text}, similarity {mean:.4f} ({low:.4f} to {high:.4f})"


def _span(data: Mapping[str, Any], prefix: str) -> tuple[float, float, float] | None:
    """Mean, lowest and highest of an event; None where one of them is missing."""
    found = [data.get(f"{prefix}{name}") for name in ("mean", "min", "max")]
    numbers = [each for each in found if isinstance(each, int | float)]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == len(found) else None


def evaluation_text(step: int, data: Mapping[str, Any]) -> str:
    """``evaluation loss 0.5123 (0.4988 to 0.5258, 4 held-out images), the lowest so far``."""
    images = data.get("images")
    kind = "held-out" if data.get("held_out") else "training"
    facts = f"{images} {kind} image{'' if images == 1 else 's'}"
    if data.get("mean") is None:
        return f"evaluation loss is not finite ({facts})"
    if data.get("low") is not None and data.get("high") is not None:
        facts = f"{data['low']:.4f} to {data['high']:.4f}, {facts}"
    best = ", the lowest so far" if data.get("is_best") and step > 0 else ""
    return f"evaluation loss {data['mean']:.4f} ({facts}){best}"
