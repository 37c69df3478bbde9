"""``caption_shuffle``: variants of captions whose parts are in another order."""

from typing import Final

from trainer_core.config.plan import CaptionShuffle, CaptionSplit
from trainer_core.config.simpletuner.reading import Options, read_options
from trainer_core.config.simpletuner.verdicts import Option, Table, same

_MAX_COUNT: Final = 100
"""Each variant of each caption is encoded and kept: 33 MiB each."""
_ROWS: Final = Table()
_ENABLED: Final = _ROWS.flag("enable", False, "Whether captions are shuffled.")
_COUNT: Final = _ROWS.integer("count", 1, "Variants of each caption.", at_least=1)
_SEED: Final[Option[int | None]] = _ROWS.integer("seed", None, "Else that of the run.")
_SPLIT: Final[Option[CaptionSplit]] = _ROWS.choice(
    "split_on", same(CaptionSplit), "comma", "What stands between the parts."
)
_FIXED: Final = _ROWS.integer("position_start", 0, "So many parts stay in front.", at_least=0)
_ORIGINAL: Final = _ROWS.flag("include_original", True, "Keep the caption as it is, too.")


def shuffle_of(options: Options, option: Option[object], seed: int) -> CaptionShuffle | None:
    """How the captions of a backend are shuffled; None: they are not.

    Args:
        options: of the backend.
        option: its row.
        seed: of the run, for a shuffle without one; 0 where none is given, as in SimpleTuner.
    """
    raw = options[option]
    if raw is None or raw is False or raw in ("", {}):
        return None
    if not isinstance(raw, dict):
        message = 'caption_shuffle has to be an object, such as {"enable": true, "count": 3}.'
        options.problem(option, "bad_value", message)
        return None
    at = options.at(option)
    read = read_options(
        raw, _ROWS.rows, at, options.findings, options.source, backend=options.backend
    )
    if not read[_ENABLED]:
        return None
    if read[_COUNT] > _MAX_COUNT:
        message = (
            f"count is at most {_MAX_COUNT}: each variant of each caption is encoded and kept."
        )
        read.problem(_COUNT, "bad_value", message)
    own = read[_SEED]
    return CaptionShuffle(
        count=read[_COUNT],
        seed=seed if own is None else own,
        split_on=read[_SPLIT],
        position_start=read[_FIXED],
        include_original=read[_ORIGINAL],
    )
