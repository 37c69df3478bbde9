"""One job file: everything a training process is told."""

from pathlib import Path

from pydantic import Field, ValidationError

from trainer_core.config.plan import Plan
from trainer_core.config.plan.frozen import Frozen
from trainer_core.data.index import DataIndex
from trainer_core.errors import TrainerError


class BadJobError(TrainerError):
    """The job file cannot be read; whoever wrote it is wrong, not the tenant."""

    code = "bad_job"


class Job(Frozen):
    """A run, its data and the folders of this machine that it uses."""

    plan: Plan
    index: DataIndex
    base_model_dir: str
    shards_dir: str
    """Somebody else puts shards there, in the order in which the sampler asks for them."""
    output_dir: str
    resume_from: str | None
    """Folder of a checkpoint."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many whole ones stay in ``checkpoints_dir``; in the service each is copied away."""
    shard_wait_s: float = Field(gt=0)

    @property
    def checkpoints_dir(self) -> Path:
        return Path(self.output_dir) / "checkpoints"

    @property
    def result_dir(self) -> Path:
        return Path(self.output_dir) / "result"


def read_job(path: Path) -> Job:
    """Raises BadJobError."""
    try:
        return Job.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadJobError(f"{path.name} is not a job: {error}") from error
