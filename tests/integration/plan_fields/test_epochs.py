"""A run in epochs, stopped and resumed in the middle, ends where the unbroken one ends."""

from typing import Final

import pytest

from tests.integration.plan_fields.environment import Environment
from tests.integration.plan_fields.files import DOGS, RATE, Files
from trainer_core.config.plan import Plan
from trainer_core.errors import CheckpointError

# Two uses of each cat, one of the dog: 7 in square batches of 2, 2 in a tall one. So an epoch has
# 5 micro-batches, and two of them have 10, which are 4 steps of 3.
EPOCHS: Final = {
    "max_train_steps": None,
    "num_train_epochs": 2,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "lr_scheduler": "linear",
    "checkpoint_step_interval": 100,
    "checkpoint_epoch_interval": 1,
}
STEPS: Final = 4


def plan_of(environment: Environment, **changes: object) -> Plan:
    config = {**EPOCHS, **changes}
    return environment.plan(Files(config=config, cats={"repeats": 1}, others=[DOGS]))


def test_a_resumed_run_in_epochs_equals_the_unbroken_one(environment: Environment) -> None:
    plan = plan_of(environment)
    whole = environment.run_locally(plan, environment.new_folder())
    broken = environment.new_folder()

    stopped = environment.run_locally(plan, broken, until=2)
    assert stopped.reported("checkpoint", "step") == [2]
    rest = environment.run_locally(plan, broken)

    rates = [RATE * (1 - step / STEPS) for step in range(STEPS)]
    assert whole.reported("plan", "steps") == [STEPS]
    assert whole.reported("step", "learning_rate") == pytest.approx(rates)
    # The epochs end in steps 2 and 4; step 4 is filled up from the epoch after them.
    assert whole.reported("checkpoint", "step") == [2, STEPS]
    assert whole.reported("step", "epoch") == [0, 1, 1, 2]
    assert rest.reported("step", "learning_rate") == pytest.approx(rates[2:])
    assert rest.reported("checkpoint", "step") == [STEPS]
    ends = [run.folder / f"checkpoints/step-{STEPS:08d}" for run in (whole, rest)]
    states = [(end / "state.safetensors").read_bytes() for end in ends]
    assert states[0] == states[1]

    with pytest.raises(CheckpointError, match="num_train_epochs: 3 here, 2 in the checkpoint"):
        environment.run_locally(plan_of(environment, num_train_epochs=3), broken)


def test_a_run_goes_on_over_the_start_and_the_end_of_backends(environment: Environment) -> None:
    """Cats end after step 3 and dogs start at step 3; the run is stopped before, and after.

    Cats have several crops, which are used in turn over this.
    """
    plan = environment.plan(
        Files(
            config={**EPOCHS, "max_train_steps": 6, "num_train_epochs": None},
            cats={
                "repeats": 1,
                "end_step": 3,
                "crop": True,
                "crop_aspect": "preserve",
                "crops_per_image": 3,
            },
            others=[{**DOGS, "start_step": 3}],
        )
    )
    whole = environment.run_locally(plan, environment.new_folder())
    broken = environment.new_folder()

    environment.run_locally(plan, broken, until=2)
    rest = environment.run_locally(plan, broken)

    assert whole.reported("step", "step") == [1, 2, 3, 4, 5, 6]
    # Two steps have 6 of cats' batches: an epoch of 4 and a part. With step 3 a second epoch of
    # both begins, of 5 batches, and with step 4 that of the dog alone, of one batch.
    assert whole.reported("step", "epoch") == [0, 1, 1, 3, 6, 9]
    ends = [run.folder / f"checkpoints/step-{6:08d}" for run in (whole, rest)]
    states = [(end / "state.safetensors").read_bytes() for end in ends]
    assert states[0] == states[1]
