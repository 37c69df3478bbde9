"""Options of the CLIP score, which is computed of each picture that a run makes while it trains."""

from typing import Final

from trainer_core.config.plan import Pictures
from trainer_core.config.simpletuner.reading import Options, requests_nothing
from trainer_core.config.simpletuner.verdicts import Table

CLIP: Final = Table()

_TYPE: Final = CLIP.text(
    "evaluation_type",
    None,
    "clip: each picture that is made while it trains gets the CLIP score of its prompt and its "
    "similarity to the training pictures.",
)
CLIP_MODEL: Final = CLIP.text(
    "pretrained_evaluation_model_name_or_path",
    None,
    "The CLIP model that evaluation_type clip scores with, in safetensors: in a local run its "
    "folder or repository, in the service the name of one that its operator has installed.",
)
CLIP.unlike(
    CLIP_MODEL,
    "Without it nothing is scored: SimpleTuner's default, openai/clip-vit-large-patch14-336, is "
    "not downloaded.",
)
_NEEDS_MODEL: Final = (
    "no CLIP score is computed without pretrained_evaluation_model_name_or_path, which names the "
    "CLIP model."
)


def with_clip_model(config: Options, pictures: Pictures | None) -> Pictures | None:
    """The pictures with the model that scores them, where the files ask for scores."""
    model = (config[CLIP_MODEL] or "").strip() or None
    if not _is_wanted(config):
        config.idle("without evaluation_type clip", CLIP_MODEL)
        return pictures
    if pictures is None:
        config.idle("where no pictures are made while it trains", _TYPE, CLIP_MODEL)
        return None
    if model is None:
        config.differs(_TYPE, _NEEDS_MODEL)
    return pictures.model_copy(update={"clip_model": model})


def _is_wanted(config: Options) -> bool:
    written = (config[_TYPE] or "").strip()
    if requests_nothing(written, ()):
        return False
    if written.lower() != "clip":
        message = f"evaluation_type has to be none or clip, not {written[:60]}."
        config.problem(_TYPE, "bad_value", message)
        return False
    return True
