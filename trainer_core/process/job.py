"""The job file: everything that a training process gets from its supervisor, as JSON."""

from pathlib import Path

from pydantic import Field, ValidationError

from trainer_core.config.plan import Plan
from trainer_core.config.plan.frozen import Frozen
from trainer_core.data.index import DataIndex
from trainer_core.errors import TrainerError


class BadJobError(TrainerError):
    """The job file cannot be read; the fault is in its writer, not in the user's files."""

    code = "bad_job"


class Job(Frozen):
    """A run, its data and the folders of this machine that it uses."""

    plan: Plan
    index: DataIndex
    base_model_dir: str
    shards_dir: str
    """The supervisor puts shards there, in the order in which the sampler needs them."""
    output_dir: str
    resume_from: str | None
    """Folder of a checkpoint."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the newest stay in ``checkpoints_dir``. The service has copied the others."""
    shard_wait_s: float = Field(gt=0)
    """How long to wait for a shard that is not in ``shards_dir`` yet."""

    @property
    def checkpoints_dir(self) -> Path:
        return Path(self.output_dir) / "checkpoints"

    @property
    def result_dir(self) -> Path:
        return Path(self.output_dir) / "result"


def write_job(path: Path, job: Job) -> None:
    """Raises OSError."""
    path.write_text(job.model_dump_json() + "\n", encoding="utf-8")


def read_job(path: Path) -> Job:
    """Raises BadJobError where the file is missing or is no job."""
    try:
        return Job.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadJobError(f"{path.name} is not a job: {error}") from error
