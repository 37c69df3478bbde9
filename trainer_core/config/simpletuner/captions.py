"""Options of captions, of the run and of each data backend."""

from dataclasses import dataclass
from typing import Final

from trainer_core.config.plan import CaptionShuffle, CaptionStrategy
from trainer_core.config.simpletuner.caption_shuffles import shuffle_of
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.sources import (
    KIND,
    RowStrategy,
    WrittenStrategy,
    check_strategy,
    default_strategy_of,
    has_names,
)
from trainer_core.config.simpletuner.verdicts import Option, Table, same

RUN_CAPTIONS: Final = Table()
BACKEND_CAPTIONS: Final = Table()
_STRATEGIES: Final = {
    **same(CaptionStrategy),
    **same(RowStrategy),
    "instance_prompt": "instanceprompt",
}
_STRATEGY: Final[Option[WrittenStrategy | None]] = RUN_CAPTIONS.choice(
    "caption_strategy",
    _STRATEGIES,
    None,
    "Default of the data backends; without it: that of the backend's type, or filename.",
)
_PROMPT: Final = RUN_CAPTIONS.text("instance_prompt", None, "Default of the data backends.")
_OWN_STRATEGY: Final[Option[WrittenStrategy | None]] = BACKEND_CAPTIONS.choice(
    "caption_strategy",
    _STRATEGIES,
    None,
    "Where captions come from; parquet, csv, huggingface and webshart: from the rows that the "
    "pictures of that type are fetched with.",
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
_PREPEND: Final = RUN_CAPTIONS.flag(
    "prepend_instance_prompt", False, "Default of the data backends."
)
_ONLY: Final = RUN_CAPTIONS.flag("only_instance_prompt", False, "Default of the data backends.")
_WHOLE: Final = RUN_CAPTIONS.flag("disable_multiline_split", False, "Default of the data backends.")
_OWN_PREPEND: Final = BACKEND_CAPTIONS.flag(
    "prepend_instance_prompt",
    False,
    "Put instance_prompt and a space before every caption, after caption_shuffle.",
)
_OWN_ONLY: Final = BACKEND_CAPTIONS.flag(
    "only_instance_prompt", False, "The same as caption_strategy instanceprompt."
)
_OWN_WHOLE: Final = BACKEND_CAPTIONS.flag(
    "disable_multiline_split",
    False,
    "A caption file is one caption, with its line breaks; without this, each line is one.",
)
_SHUFFLE: Final = BACKEND_CAPTIONS.value(
    "caption_shuffle",
    "Variants of each caption with its parts in another order: an object with enable (false), "
    "count (1), seed (that of the run), split_on (comma; or space, period), position_start (0: so "
    "many parts stay in front) and include_original (true).",
)
FILTERS: Final = BACKEND_CAPTIONS.value(
    "caption_filter_list",
    "Of text_embeds: texts and regular expressions to remove from captions, and "
    "s/search/replacement/ to replace the first place that is found; a list, or in a local file "
    "the name of a .txt (one a line) or .json file.",
)
BACKEND_CAPTIONS.unlike(
    FILTERS,
    "RE2 reads the expressions, in bounded time: look-around and back-references are refused, and "
    "\\w, \\d, \\s and \\b know ASCII only. A caption of which nothing is left is none.",
)
BACKEND_CAPTIONS.not_built("caption_file_extensions", "Captions are .txt files: leave it out.")
NOT_OF_MASKS: Final = (
    *(_OWN_STRATEGY, _OWN_PROMPT, _OWN_PREPEND, _OWN_ONLY, _OWN_WHOLE, _SHUFFLE),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """Where the captions of a backend come from, and what is done to them."""

    strategy: CaptionStrategy
    written: WrittenStrategy
    """Rows of a source become text files, so that they are read as ``textfile``."""
    prompt: str | None = None
    """With ``instanceprompt`` the caption of all images; else what is put before each."""
    is_prepended: bool = False
    are_whole_files: bool = False
    are_whole_texts: bool = False
    """The same of text files in tar files, which are fetched so."""
    shuffle: CaptionShuffle | None = None


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


def captions_of(options: Options, config: Options, seed: int) -> Captions:
    """The captions of a backend; ``seed``: of the run, 0 where none is given."""
    if options.given(FILTERS):
        message = "It belongs to the text_embeds backend, as in SimpleTuner: write it there."
        options.problem(FILTERS, "conflict", message)
    written = _strategy_of(options, config)
    strategy = _read_as(written)
    shuffle = shuffle_of(options, _SHUFFLE, seed)
    prompt = options[_OWN_PROMPT] if options.given(_OWN_PROMPT) else config[_PROMPT]
    is_prepended = _of_either(options, _OWN_PREPEND, config, _PREPEND)
    are_whole_files = _of_either(options, _OWN_WHOLE, config, _WHOLE)
    are_whole_texts = are_whole_files and written == "webshart"
    if written not in ("textfile", "webshart"):
        options.idle(f"with caption_strategy {written}", _OWN_WHOLE)
    are_whole_files = are_whole_files and written == "textfile"
    if strategy == "instanceprompt":
        options.idle("where the prompt is the only caption", _OWN_PREPEND, _SHUFFLE)
        is_prepended, shuffle = False, None
    elif not is_prepended:
        options.idle(f"with caption_strategy {written}", _OWN_PROMPT)
        prompt = None
    if (is_prepended or strategy == "instanceprompt") and not (prompt and prompt.strip()):
        what = "prepend_instance_prompt" if is_prepended else "caption_strategy instanceprompt"
        options.problem(_OWN_PROMPT, "missing", f"{what} needs an instance_prompt.")
    return Captions(
        strategy=strategy,
        written=written,
        prompt=prompt,
        is_prepended=is_prepended,
        are_whole_files=are_whole_files,
        are_whole_texts=are_whole_texts,
        shuffle=shuffle,
    )


def _read_as(written: WrittenStrategy) -> CaptionStrategy:
    match written:
        case "parquet" | "csv" | "huggingface" | "webshart":
            return "textfile"
        case _:
            return written


def _strategy_of(options: Options, config: Options) -> WrittenStrategy:
    """The source of the captions, which the type of the backend has to have."""
    if _of_either(options, _OWN_ONLY, config, _ONLY):
        return "instanceprompt"
    kind = options[KIND]
    strategy = options[_OWN_STRATEGY] or config[_STRATEGY]
    if strategy is None or (not options.given(_OWN_STRATEGY) and default_strategy_of(kind)):
        strategy = default_strategy_of(kind) or "filename"
        if has_names(kind) and options.is_missing(_OWN_STRATEGY) and config.is_missing(_STRATEGY):
            message = "is not given: the captions are the names of the files, as in SimpleTuner."
            options.handled(_OWN_STRATEGY, message)
    check_strategy(strategy, kind, options, _OWN_STRATEGY)
    return strategy


def _of_either(options: Options, own: Option[bool], config: Options, default: Option[bool]) -> bool:
    """The flag of a backend, or where it has none that of the run."""
    return options[own] if options.given(own) else config[default]


def tell_idle_captions(config: Options) -> None:
    """Tell that the run's ``instance_prompt`` is used by no backend."""
    config.idle("where no caption_strategy takes it", _PROMPT)
