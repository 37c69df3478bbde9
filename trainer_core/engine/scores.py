"""CLIP scores of the pictures that a run makes while it trains. No run fails for one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import torch
from PIL import Image
from pydantic import JsonValue

from trainer_core.base_models.clip import clip_digest
from trainer_core.config.plan import Shown
from trainer_core.engine.reporting import report_scores, report_warning
from trainer_core.engine.similarity import training_embeddings
from trainer_core.engine.state import Run, TrainingState
from trainer_core.errors import ShardCorruptError, ShardMissingError
from trainer_core.in_words import error_in_words
from trainer_core.process.control import StopRequestedError
from trainer_core.process.job import MadeScore
from trainer_core.validation.pictures import CLIP_FACT, CLIP_MODEL_FACT, SIMILARITY_FACT, Picture
from trainer_core.validation.similarity import similarity

_DIGITS: Final = 6
_FAILED: Final = (
    "No picture is scored from step {step} on: the CLIP model of "
    "pretrained_evaluation_model_name_or_path failed ({reason})."
)
_NO_MEMORY: Final = (
    "No picture is compared with the training pictures: decoding those needs more memory than the "
    "card has beside the training. They are compared with the prompts."
)


class Score(NamedTuple):
    """Of one picture."""

    clip: float
    """The cosine of its embedding and that of its prompt."""
    similarity: float | None
    """To the nearest training picture; None where they could not be decoded."""
    model_digest: str
    """Of the CLIP model; empty where nobody knows it."""


def facts_of(score: Score | None) -> dict[str, JsonValue]:
    """What a picture's event and its file say of it."""
    if score is None:
        return {}
    near = {} if score.similarity is None else {SIMILARITY_FACT: score.similarity}
    return {CLIP_FACT: score.clip, CLIP_MODEL_FACT: score.model_digest, **near}


def score_in(facts: Mapping[str, str]) -> Score | None:
    """The score that the file of a picture tells; None where it has none."""
    if CLIP_FACT not in facts:
        return None
    near = facts.get(SIMILARITY_FACT)
    return Score(
        clip=float(facts[CLIP_FACT]),
        similarity=None if near is None else float(near),
        model_digest=facts.get(CLIP_MODEL_FACT, ""),
    )


def score_of(made: MadeScore | None) -> Score | None:
    """The score that a supervisor knows; None where there is none."""
    if made is None:
        return None
    return Score(
        clip=made.clip_score, similarity=made.similarity, model_digest=made.clip_model_digest
    )


class Scores:
    """The scores of the pictures of one step. Rank 0 computes them, on the CPU."""

    def __init__(self, run: Run, state: TrainingState) -> None:
        self._run = run
        self._state = state
        self._scores: dict[Shown, list[Score]] = {}

    def prepare(self) -> None:
        """Load the model and embed the training pictures, before the first picture of this process.

        Raises StopRequestedError, ShardMissingError and ShardCorruptError.
        """
        run, scoring = self._run, self._state.scoring
        folder = run.job.clip_dir
        if folder is None or run.backend.rank != 0:
            return
        if scoring.scorer is not None or scoring.has_failed:
            return
        with self._told(self._state.step):
            from trainer_core.validation.clip_score import ClipScorer  # noqa: PLC0415 - imports all of CLIP

            self._digest(folder)
            scorer = ClipScorer(Path(folder))
            try:
                scoring.training_ND = training_embeddings(run, scorer.embed)
            except torch.OutOfMemoryError:
                report_warning(run, self._state, "no_similarity", _NO_MEMORY)
            scoring.scorer = scorer

    def score(self, picture: Picture, image: Image.Image) -> Score | None:
        """Of one picture; None where nothing is scored.

        After a failure, which a warning tells, this process scores nothing more.
        """
        scoring, folder = self._state.scoring, self._run.job.clip_dir
        if scoring.scorer is None or folder is None:
            return None
        with self._told(picture.step):
            image_D = scoring.scorer.embed(image)
            training_ND = scoring.training_ND
            near = None if training_ND is None else similarity(image_D, training_ND)
            score = Score(
                clip=round(scoring.scorer.score(image_D, picture.prompt.text), _DIGITS),
                similarity=None if near is None else round(near, _DIGITS),
                model_digest=self._digest(folder),
            )
            self._note(picture, score)
            return score
        return None

    @contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """A failure inside is told, and ends the scoring."""
        scoring = self._state.scoring
        try:
            yield
        except (StopRequestedError, ShardMissingError, ShardCorruptError):
            raise
        except Exception as error:  # noqa: BLE001 - no run fails for a score
            scoring.scorer, scoring.has_failed = None, True
            message = _FAILED.format(step=step, reason=error_in_words(error))
            report_warning(self._run, self._state, "no_clip_score", message)

    def keeps(self, picture: Picture, made: Score | None) -> bool:
        """Count the score of a picture that an earlier process made.

        False where another model gave it: the picture is to be made again. Called on rank 0.

        Args:
            picture: the picture.
            made: its score; None where it has none.
        """
        folder = self._run.job.clip_dir
        if folder is None or self._state.scoring.has_failed or made is None:
            return True
        with self._told(picture.step):
            if made.model_digest != self._digest(folder):
                return False
            self._note(picture, made)
        return True

    def _digest(self, folder: str) -> str:
        """Of the CLIP model in this folder; its files are read once."""
        scoring = self._state.scoring
        if scoring.digest is None:
            scoring.digest = clip_digest(Path(folder))
        return scoring.digest

    def _note(self, picture: Picture, score: Score) -> None:
        self._scores.setdefault(picture.shown, []).append(score)

    def report(self) -> None:
        """The means over the pictures of each kind of weights."""
        for shown, scores in self._scores.items():
            report_scores(
                self._run,
                self._state,
                shown,
                clip=[each.clip for each in scores],
                similarity=[each.similarity for each in scores if each.similarity is not None],
            )
