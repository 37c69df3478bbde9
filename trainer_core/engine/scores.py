"""CLIP scores of the pictures that a run makes while it trains. No run fails for one."""

from pathlib import Path
from typing import Final

from PIL import Image

from trainer_core.config.plan import Shown
from trainer_core.engine.reporting import report_scores, report_warning
from trainer_core.engine.state import Run, TrainingState
from trainer_core.validation.pictures import Picture

_DIGITS: Final = 6
_MAX_REASON: Final = 300
_FAILED: Final = (
    "No picture is scored from step {step} on: the CLIP model of "
    "pretrained_evaluation_model_name_or_path failed ({reason})."
)


class Scores:
    """The scores of the pictures of one step. Rank 0 computes them, on the CPU."""

    def __init__(self, run: Run, state: TrainingState) -> None:
        self._run = run
        self._state = state
        self._scores: dict[Shown, list[float]] = {}

    def score(self, picture: Picture, image: Image.Image) -> float | None:
        """Of one picture and its prompt; None where nothing is scored.

        After a failure, which a warning tells, this process scores nothing more.
        """
        run, scoring = self._run, self._state.scoring
        folder = run.job.clip_dir
        if folder is None or run.backend.rank != 0 or scoring.has_failed:
            return None
        try:
            if scoring.scorer is None:
                from trainer_core.validation.clip_score import ClipScorer  # noqa: PLC0415 - imports all of CLIP

                scoring.scorer = ClipScorer(Path(folder))
            score = round(scoring.scorer.score(image, picture.prompt.text), _DIGITS)
        except Exception as error:  # noqa: BLE001 - no run fails for a score
            scoring.scorer, scoring.has_failed = None, True
            reason = f"{type(error).__name__}: {error}"[:_MAX_REASON]
            message = _FAILED.format(step=picture.step, reason=reason)
            report_warning(run, self._state, "no_clip_score", message)
            return None
        self.note(picture, score)
        return score

    def note(self, picture: Picture, score: float) -> None:
        """Count the score of a picture, which an earlier process may have made."""
        self._scores.setdefault(picture.shown, []).append(score)

    def report(self) -> None:
        """The mean over the pictures of each kind of weights."""
        for shown, scores in self._scores.items():
            report_scores(self._run, self._state, shown, scores)
