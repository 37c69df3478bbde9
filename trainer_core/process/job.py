"""The job file: JSON with everything that a supervisor gives to a training process."""

from pathlib import Path

from pydantic import Field, ValidationError

from trainer_core.config.plan import Plan
from trainer_core.config.plan.frozen import Frozen, Many
from trainer_core.data.index import DataIndex
from trainer_core.errors import TrainerError
from trainer_core.process.node_cache import NodeCache


class BadJobError(TrainerError):
    """The job file is invalid: a defect of its writer, not a mistake in the user's files."""

    code = "bad_job"


class MadeScore(Frozen):
    """The CLIP score of a picture that an earlier process made."""

    clip_score: float
    similarity: float | None
    """To the nearest training picture; None where it was not measured."""
    clip_model_digest: str
    """``clip_digest`` of the model."""


class Job(Frozen):
    """A run, its data, and the folders that it uses on this machine."""

    plan: Plan
    index: DataIndex
    base_model_dir: str
    base_files: dict[str, str] = Field(default_factory=dict)
    """``described_files`` of the base model, in a local run; for messages only."""
    shards_dir: str
    """Where the cache entries are; a supervisor writes them there as the sampler needs them."""
    entries_are_checked: bool = False
    """Whether the supervisor compares each entry with its digest while it writes it, so that this
    process need not. In a local run entries lie there for long."""
    output_dir: str
    resume_from: str | None
    """Folder of the checkpoint to resume from; None: start at step 0."""
    start_from: str | None = None
    """Adapter file or folder (``export.start_file.find_start``) of the plan's ``start_adapter``;
    read only at step 0."""
    pictures_made: Many[str] = ()
    """Paths of pictures that a supervisor has stored; those of the step that this process starts
    at are not made again, though their files are not in ``output_dir``."""
    scores_made: dict[str, MadeScore] = Field(default_factory=dict)
    """Path of each of ``pictures_made`` that has a CLIP score → its score."""
    clip_dir: str | None = None
    """Folder of the CLIP model of the plan's ``clip_model``; None: no picture is scored."""
    preview_autoencoder: str | None = None
    """Folder of the Tiny AutoEncoder that the plan's previews name; None: it is not there."""
    picture_adapter: str | None = None
    """Adapter file or folder (``export.start_file.find_start``) of the plan's pictures; None: they
    show the weights of the run alone."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of newest checkpoints in ``checkpoints_dir``, where the process deletes older ones."""
    waiting_checkpoints: int | None = Field(default=None, ge=1)
    """The supervisor stores each checkpoint and then deletes it; training waits while so many are
    left. None: nobody stores them, and ``keep_checkpoints`` holds."""
    shard_wait_s: float = Field(gt=0)
    """The longest wait for an entry that is not in ``shards_dir`` yet."""
    node_cache: NodeCache | None = None
    """None: 8-bit weights are not kept, and compiled kernels where the libraries keep them."""

    @property
    def checkpoints_dir(self) -> Path:
        return Path(self.output_dir) / "checkpoints"

    @property
    def result_dir(self) -> Path:
        return Path(self.output_dir) / "result"


def write_job(path: Path, job: Job) -> None:
    """Write a job file; raises OSError."""
    path.write_text(job.model_dump_json() + "\n", encoding="utf-8")


def read_job(path: Path) -> Job:
    """Read a job file; raises BadJobError if it is missing or invalid."""
    try:
        return Job.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadJobError(f"{path.name} is not a valid job: {error}") from error
