"""Where the captions of a folder come from, and prompts to try the result with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, assert_never

from services.cli.configure_answers import Goal
from services.cli.configure_pictures import Picture
from trainer_core.config.plan import CaptionStrategy
from trainer_core.config.simpletuner.placeholders import replaced_in
from trainer_core.in_words import share_having

_SPEAKING_SHARE: Final = 0.8
"""Of the names that have to read like captions before all are taken as such."""
_SPEAKING_WORDS: Final = 3
_WORD: Final = re.compile(r"[^\W\d_]{2,}")
_MOST_PROMPT: Final = 300
_MOST_SHOWN: Final = 60
_ELSEWHERE: Final = "a photo of a market street in the rain"
"""A prompt without the word: the adapter should leave its picture as it was."""
_OF_GOAL: Final[Mapping[Goal, Mapping[str, str]]] = MappingProxyType(
    {
        "subject": {
            "as_trained": "a photo of {word}",
            "beach": "a photo of {word} on a beach at sunset",
            "drawing": "a pencil drawing of {word}",
            "without": _ELSEWHERE,
        },
        "style": {
            "as_trained": "a picture in the style of {word}",
            "lake": "a mountain lake at dawn, in the style of {word}",
            "bicycle": "a bicycle against a wall, in the style of {word}",
            "without": _ELSEWHERE,
        },
        "concept": {
            "as_trained": "{word}",
            "evening": "{word}, outdoors in the evening sun",
            "drawing": "a pencil drawing of {word}",
            "without": _ELSEWHERE,
        },
    }
)
"""Goal → nickname → prompt. The first one is also the caption of pictures that have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """The captions of a run, and the pictures that have one."""

    strategy: CaptionStrategy
    prompt: str | None
    """The caption of every picture, with instanceprompt."""
    pictures: tuple[Picture, ...]
    unreadable: tuple[str, ...]
    """Pictures at whose caption a run would fail."""
    value: str
    reason: str


def strategy_of(pictures: Sequence[Picture]) -> CaptionStrategy:
    """The source of captions that suits most of the pictures."""
    written = sum(bool(picture.captions) for picture in pictures)
    if written and 2 * written >= len(pictures):
        return "textfile"
    speaking = sum(_speaks(picture) for picture in pictures)
    return "filename" if speaking >= _SPEAKING_SHARE * len(pictures) else "instanceprompt"


def captions_of(pictures: Sequence[Picture], goal: Goal, word: str | None) -> Captions:
    """The captions of a run.

    Args:
        pictures: at least one.
        goal: of the training.
        word: the trigger word; not None where ``strategy_of`` is instanceprompt.
    """
    strategy = strategy_of(pictures)
    kept, unreadable = tuple(pictures), tuple[str, ...]()
    prompt = None
    match strategy:
        case "textfile":
            kept = tuple(picture for picture in pictures if picture.captions)
            unreadable = tuple(picture.name for picture in pictures if picture.bad_caption)
            value = "from the text files beside the pictures"
            reason = _share_written(pictures)
            if len(kept) < len(pictures):
                reason += " A run leaves the others out: write text files for them."
            reason += _about_word([p.captions for p in kept], word)
        case "filename":
            value = "from the names of the pictures"
            reason = f"Names such as {pictures[0].name[:_MOST_SHOWN]} read like captions. "
            reason += _share_written(pictures) + _about_word([p.words for p in pictures], word)
        case "instanceprompt":
            assert word is not None
            prompt = prompts_of(goal, word)["as_trained"]
            value = f'"{prompt}" for every picture'
            reason = (
                f"{_share_written(pictures)} Names such as {pictures[0].name[:_MOST_SHOWN]} do "
                "not describe a picture. With captions of their own, what they name stays "
                "changeable."
            )
        case _:
            assert_never(strategy)
    return Captions(
        strategy=strategy,
        prompt=prompt,
        pictures=kept,
        unreadable=unreadable,
        value=value,
        reason=reason,
    )


def prompts_of(goal: Goal, word: str) -> dict[str, str]:
    """Nickname → prompt, to try the result with."""
    return {nickname: text.format(word=word) for nickname, text in _OF_GOAL[goal].items()}


def sample_prompt(captions: Captions, goal: Goal, word: str | None) -> str:
    """The prompt of the sample picture: with the word, or the first caption that is not long."""
    if word is not None:
        return prompts_of(goal, word)["as_trained"]
    every = (_texts_of(picture, captions.strategy)[0] for picture in captions.pictures)
    texts = (text for text in every if replaced_in(text) is None)
    first = next(texts, _ELSEWHERE)
    return next((text for text in (first, *texts) if len(text) <= _MOST_PROMPT), first)


def _texts_of(picture: Picture, strategy: CaptionStrategy) -> tuple[str, ...]:
    return picture.captions if strategy == "textfile" else picture.words


def _speaks(picture: Picture) -> bool:
    return len(_WORD.findall(" ".join(picture.words))) >= _SPEAKING_WORDS


def _share_written(pictures: Sequence[Picture]) -> str:
    written = sum(bool(picture.captions) for picture in pictures)
    if not written:
        return "No picture has a text file with words."
    return f"{share_having(written, len(pictures), 'picture')} a text file with words."


def _about_word(texts: Sequence[Sequence[str]], word: str | None) -> str:
    """How many pictures have a caption with the trigger word."""
    if word is None:
        return ""
    having = sum(any(word.lower() in text.lower() for text in each) for each in texts)
    if not having:
        return f' No caption has "{word}" in it: write it into them, or it will call up nothing.'
    return f' {share_having(having, len(texts), "caption")} "{word}" inside.'
