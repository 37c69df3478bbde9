"""Which captions are longer than the text encoders take, so that their rest is lost."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer_core.data.collecting import MAX_TEXT_TOKENS
from trainer_core.data.token_counts import EncoderName, count_tokens

_NAMED_AT_MOST: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class CutCaptions:
    """The captions of a run that are cut off."""

    captions: int
    """All captions of all images."""
    cut: int
    longest_tokens: int
    """Of the longest caption; 0 where none is cut."""
    num_images: int
    """Those whose captions are cut, or some of them."""
    first: tuple[str, ...]
    """The first of these images."""
    is_exact: bool
    """False: estimated from the characters."""
    by_encoder: Mapping[EncoderName, tuple[int, int]]
    """Encoder → its captions that are cut, and their tokens that it does not get; empty where they
    are estimated."""

    def warning(self) -> str | None:
        """One sentence; None where no caption is cut. It never has the text of a caption."""
        if not self.cut:
            return None
        about, maybe = ("", "") if self.is_exact else ("about ", "probably ")
        one = self.cut == 1
        named = ", ".join(self.first) + (", …" if self.num_images > len(self.first) else "")
        how = "" if self.is_exact else "; estimated, because there is no tokenizer here"
        return (
            f"{self.cut} of {self.captions} captions {'is' if one else 'are'} {maybe}"
            f"longer than the {MAX_TEXT_TOKENS} tokens that the text encoders take, and the rest "
            f"of {'it' if one else 'each'} is cut off (the longest has {about}{self.longest_tokens}"
            f"{how}): {named}."
        )


def prompt_warnings(prompts: Sequence[tuple[str, str]], base: Path | None) -> list[str]:
    """A warning for each prompt that is cut off; ``prompts``: how it is called, and its text."""
    counts = count_tokens([text for _, text in prompts], base)
    about = "" if counts.is_exact else "about "
    return [
        f"{name} has {about}{tokens} tokens, more than the {MAX_TEXT_TOKENS} that the text "
        f"encoders take; its rest is cut off."
        for (name, _), tokens, is_cut in zip(prompts, counts.tokens, counts.is_cut, strict=True)
        if is_cut
    ]


def cut_captions(captions: Iterable[tuple[str, Sequence[str]]], base: Path | None) -> CutCaptions:
    """Count the captions that are cut off.

    Args:
        captions: the name of each image, for a message, and its captions.
        base: the base model's folder; None where there is none on this machine.
    """
    named = list(captions)
    texts = list(dict.fromkeys(text for _, of_image in named for text in of_image))
    counts = count_tokens(texts, base)
    cut = {
        text: tokens
        for text, tokens, is_cut in zip(texts, counts.tokens, counts.is_cut, strict=True)
        if is_cut
    }
    images = [name for name, of_image in named if any(text in cut for text in of_image)]
    times = Counter(text for _, of_image in named for text in of_image)
    by_encoder = {
        encoder: (
            sum(times[text] for text, tokens in zip(texts, lost, strict=True) if tokens),
            sum(times[text] * tokens for text, tokens in zip(texts, lost, strict=True)),
        )
        for encoder, lost in counts.lost.items()
    }
    return CutCaptions(
        captions=sum(len(of_image) for _, of_image in named),
        cut=sum(text in cut for _, of_image in named for text in of_image),
        longest_tokens=max(cut.values(), default=0),
        num_images=len(images),
        first=tuple(images[:_NAMED_AT_MOST]),
        is_exact=counts.is_exact,
        by_encoder=by_encoder,
    )
