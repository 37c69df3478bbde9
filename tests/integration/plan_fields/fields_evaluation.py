"""The evaluation loss: when it is measured, and on what."""

from typing import Final

from tests.integration.plan_fields.environment import Environment
from tests.integration.plan_fields.files import CATS, DOGS, Files
from tests.integration.plan_fields.observe import expect
from tests.integration.plan_fields.registry import Group
from trainer_core.config.plan import Plan
from trainer_core.validation.evaluation import EvaluationSet, evaluation_set

GROUP: Final = Group()

_HELD_OUT: Final = ({**DOGS, "dataset_type": "eval"},)
_BOTH: Final = (*_HELD_OUT, {**CATS, "id": "other-cats", "dataset_type": "eval"})
_SMALL: Final = {"num_eval_images": 1, "eval_timesteps": 1}


@GROUP.observes(
    "operation.evaluation.step_interval",
    files=Files(config={**_SMALL, "eval_steps_interval": 2}, others=_HELD_OUT),
    reset=1,
)
@GROUP.observes(
    "operation.evaluation.epoch_interval",
    files=Files(config={**_SMALL, "eval_epoch_interval": "0.5"}, others=_HELD_OUT),
    reset=0.25,
)
def it_is_measured_after_two_steps_of_an_epoch_of_four(
    plan: Plan, environment: Environment
) -> None:
    found = [
        each["step"]
        for each in environment.trained_run(plan).events
        if each["event"] == "eval" and each["name"] == "evaluation"
    ]
    expect(found, [0, 2, 3])


_APART: Final = Files(
    config={"eval_steps_interval": 1, "num_eval_images": 2, "eval_timesteps": 2}, others=_BOTH
)


def _measured(plan: Plan, environment: Environment) -> EvaluationSet:
    evaluation = plan.operation.evaluation
    assert evaluation is not None
    found = evaluation_set(evaluation, environment.index(plan), regularisation=())
    assert found is not None
    return found


@GROUP.observes("operation.evaluation.images", files=_APART, reset=3)
@GROUP.observes("operation.evaluation.backends[]", files=_APART, reset=["dogs"])
@GROUP.observes("operation.evaluation.by_backend", files=_APART, reset=False)
def two_images_of_each_dataset_are_measured(plan: Plan, environment: Environment) -> None:
    found = _measured(plan, environment)
    expect([each.backend for each in found.images], ["dogs", "other-cats", "other-cats"])
    expect(found.by_backend, True)


@GROUP.observes("operation.evaluation.sigmas", files=_APART, reset=3)
def each_is_measured_at_two_noise_levels(plan: Plan, environment: Environment) -> None:
    expect(_measured(plan, environment).sigmas, (0.25, 0.75))
