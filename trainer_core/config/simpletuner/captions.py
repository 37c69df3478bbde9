"""Options of captions, of the run and of each data backend."""

from typing import Final

from trainer_core.config.plan import CaptionStrategy
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.verdicts import Option, Table, same

RUN_CAPTIONS: Final = Table()
BACKEND_CAPTIONS: Final = Table()
_STRATEGIES: Final = {**same(CaptionStrategy), "instance_prompt": "instanceprompt"}
_STRATEGIES_NOT_BUILT: Final = ("parquet", "csv", "huggingface", "webshart")
_WRITE_THEM: Final = "Write the captions as you want them, or use instanceprompt."

_STRATEGY: Final[Option[CaptionStrategy | None]] = RUN_CAPTIONS.choice(
    "caption_strategy",
    _STRATEGIES,
    None,
    "Default of the data backends; without it: filename.",
    known=_STRATEGIES_NOT_BUILT,
)
_PROMPT: Final = RUN_CAPTIONS.text("instance_prompt", None, "Default of the data backends.")
_OWN_STRATEGY: Final[Option[CaptionStrategy | None]] = BACKEND_CAPTIONS.choice(
    "caption_strategy", _STRATEGIES, None, "Where captions come from.", known=_STRATEGIES_NOT_BUILT
)
_OWN_PROMPT: Final = BACKEND_CAPTIONS.text(
    "instance_prompt", None, "The caption of every image, with instanceprompt."
)
TEXT_TOKENS: Final = 128
"""Tokens that each of HiDream's text encoders takes of a caption."""
_MAX_LENGTH: Final[Option[int | None]] = RUN_CAPTIONS.integer(
    "tokenizer_max_length", None, "Always 128, the length that HiDream was trained on.", at_least=0
)
_IS_FORCED: Final = RUN_CAPTIONS.flag(
    "i_know_what_i_am_doing", False, "Switches no check off; SimpleTuner's longer captions need it."
)
for _table in (RUN_CAPTIONS, BACKEND_CAPTIONS):
    _table.not_built(
        "prepend_instance_prompt only_instance_prompt disable_multiline_split",
        _WRITE_THEM,
        False,
        type_="bool",
    )
BACKEND_CAPTIONS.not_built("caption_shuffle caption_filter_list", "Leave it out.")
BACKEND_CAPTIONS.not_built("caption_file_extensions", "Captions are .txt files: leave it out.")
BACKEND_CAPTIONS.no_effect("parquet", "It belongs to caption_strategy parquet.")
CACHED_CAPTIONS: Final = ("caption_filter_list",)
"""Options of a text cache that change captions."""
NOT_OF_MASKS: Final = (_OWN_STRATEGY, _OWN_PROMPT)


def check_caption_length(config: Options) -> None:
    """Report another length of captions than HiDream's encoders take."""
    length, largest = config[_MAX_LENGTH], TEXT_TOKENS
    if config[_IS_FORCED]:
        config.idle("on the checks here, which cannot be switched off", _IS_FORCED)
    if length is None or length == 0:
        return
    if length < largest or (length > largest and config[_IS_FORCED]):
        message = f"HiDream is trained on {largest} tokens a caption: leave it out."
        config.problem(_MAX_LENGTH, "not_implemented", message)
    elif length > largest:
        message = f"is {largest} for HiDream, as SimpleTuner sets it, too."
        config.notice("no_effect", _MAX_LENGTH, message)


def captions_of(options: Options, config: Options) -> tuple[CaptionStrategy, str | None]:
    """The source of captions, and with ``instanceprompt`` the caption of all images."""
    strategy = options[_OWN_STRATEGY] or config[_STRATEGY]
    if strategy is None:
        if options.is_missing(_OWN_STRATEGY) and config.is_missing(_STRATEGY):
            message = "is not given: the captions are the names of the files, as in SimpleTuner."
            options.handled(_OWN_STRATEGY, message)
        strategy = "filename"
    if strategy != "instanceprompt":
        options.idle(f"with caption_strategy {strategy}", _OWN_PROMPT)
        return strategy, None
    prompt = options[_OWN_PROMPT] if options.given(_OWN_PROMPT) else config[_PROMPT]
    if not prompt:
        message = "caption_strategy instanceprompt needs an instance_prompt."
        options.problem(_OWN_PROMPT, "missing", message)
    return strategy, prompt


def tell_idle_captions(config: Options) -> None:
    """Tell that the run's ``instance_prompt`` is used by no backend."""
    config.idle("where no caption_strategy takes it", _PROMPT)
