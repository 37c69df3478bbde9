"""How often a run may fail: the service's faults and the run's own failures are counted apart.

Only attempts since the newest checkpoint count. A death of the training process or of its worker is
taken for the service's fault, until it happens again at the same step: then the run itself kills
what it runs on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trainer_core.errors import Category

MAX_INFRA_FAILURES: Final = 20

DEATHS: Final = frozenset(
    {"child_died", "gpu_failed", "no_progress", "rank_lost", "stalled", "worker_lost"}
)
"""The training process or its worker died or hung; each of them may be the run's doing."""
WORKER_FAULTS: Final = frozenset(
    {
        "base_model_damaged",
        "base_models_unreadable",
        "clock_wrong",
        "gpu_failed",
        "gpu_memory_taken",
        "gpu_missing",
        "object_store_refused",
        "worker_disk_failed",
        "worker_disk_full",
    }
)
"""The worker cannot work. It takes no further run until it has checked itself."""
_INFRA_BUT_PLATFORM: Final = frozenset({"plan_of_other_version"})
"""A bug or an upgrade of the service; the run itself could not have failed in this way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedAttempt:
    """An attempt that failed or was lost, and stored no new checkpoint."""

    code: str
    category: Category
    last_step: int
    """The last step that it reported."""
    node: str
    """Machine of its worker; empty where that is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What the attempts since the newest checkpoint have used up."""

    own: int
    """Failures of the run itself."""
    infra: int
    own_nodes: int
    """Machines on which the run's own failures happened."""

    @property
    def attempts(self) -> int:
        return self.own + self.infra

    def exhausts(self, *, max_attempts: int, max_infra_failures: int, nodes: int) -> bool:
        """Whether the run has to fail.

        Its own failures count only from two machines, where its GPU class has two: one broken
        machine must not fail it.

        Args:
            nodes: machines whose workers could take the run now.
        """
        is_own = self.own >= max_attempts and self.own_nodes >= min(2, nodes)
        return is_own or self.attempts >= max_infra_failures


def spent(attempts: Sequence[FailedAttempt]) -> Spent:
    """Divide the attempts since the newest checkpoint between the two budgets."""
    own = [each for each in attempts if _is_own(each)] + _repeated_deaths(attempts)
    return Spent(
        own=len(own), infra=len(attempts) - len(own), own_nodes=len({each.node for each in own})
    )


def _is_own(attempt: FailedAttempt) -> bool:
    is_infra = attempt.category is Category.INFRA or attempt.code in _INFRA_BUT_PLATFORM
    return not is_infra and attempt.code not in DEATHS


def _repeated_deaths(attempts: Sequence[FailedAttempt]) -> list[FailedAttempt]:
    """The most deaths at one step, or none where no step has two.

    A step is reported while the next one runs, so two deaths at the same place may differ by one.
    """
    deaths = [each for each in attempts if each.code in DEATHS]
    groups = [
        [other for other in deaths if 0 <= other.last_step - each.last_step <= 1] for each in deaths
    ]
    largest = max(groups, key=len, default=[])
    return largest if len(largest) > 1 else []
