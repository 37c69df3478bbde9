"""The work of a run: it grows with what is computed, and traits are what else decides the speed."""

from tests.unit.config_examples import TRUE_CONFIG
from tests.unit.memory_examples import plan
from trainer_core.config.plan.work import expected_px, work_of


def test_the_true_model_takes_about_its_active_parameters_a_token() -> None:
    work = work_of(plan(), TRUE_CONFIG, image_px=1024**2)
    # 17e9 parameters, of which a token uses well under a half, for 4096 image tokens.
    assert 4e13 < work.pass_flops < 1.2e14


def test_work_grows_with_pictures_batch_and_sampling() -> None:
    small = work_of(plan(), TRUE_CONFIG, image_px=512**2)
    large = work_of(plan(), TRUE_CONFIG, image_px=1024**2)
    double = work_of(plan(train_batch_size=2), TRUE_CONFIG, image_px=512**2)
    assert 3 < large.step_flops / small.step_flops < 5
    assert double.step_flops == 2 * small.step_flops
    assert double.traits == small.traits == large.traits
    more = work_of(plan(validation_num_inference_steps=40), TRUE_CONFIG, image_px=512**2)
    assert more.sample_flops == 2 * small.sample_flops


def test_pictures_while_it_trains_are_work() -> None:
    painted = {"validation_step_interval": 100, "disable_benchmark": False}
    work = work_of(plan(**painted), TRUE_CONFIG, image_px=512**2)
    assert work.first_pictures_flops == work.sample_flops > 0  # one prompt, as the sample's
    assert work.pictures_flops_a_step == work.sample_flops / 100
    two = work_of(
        plan(**painted, num_validation_images=2, use_ema=True), TRUE_CONFIG, image_px=512**2
    )
    assert two.pictures_flops_a_step == 4 * work.pictures_flops_a_step
    none = work_of(plan(validation_step_interval=0), TRUE_CONFIG, image_px=512**2)
    assert (none.first_pictures_flops, none.pictures_flops_a_step) == (0, 0)


def test_evaluations_are_work() -> None:
    measured = {"eval_steps_interval": 50, "num_eval_images": 6, "eval_timesteps": 5}
    work = work_of(plan(**measured), TRUE_CONFIG, image_px=512**2)
    assert work.evaluation_flops == 6 * 5 * work.pass_flops
    assert work.evaluations_flops_a_step == work.evaluation_flops / 50
    (only,) = (each.id for each in plan(**measured).identity.backends)
    few = work_of(plan(**measured), TRUE_CONFIG, image_px=512**2, images={only: 2, "other": 9})
    assert few.evaluation_flops == 2 * 5 * work.pass_flops
    halves = {**measured, "eval_steps_interval": 0, "eval_epoch_interval": 0.5}
    by_epochs = work_of(plan(**halves), TRUE_CONFIG, image_px=512**2, epoch_steps=20)
    assert by_epochs.evaluations_flops_a_step == by_epochs.evaluation_flops / 10
    none = work_of(plan(eval_loss_disable=True), TRUE_CONFIG, image_px=512**2)
    assert (none.evaluation_flops, none.evaluations_flops_a_step) == (0, 0)


def test_settings_that_choose_how_the_work_is_done_are_traits() -> None:
    usual = work_of(plan(), TRUE_CONFIG, image_px=512**2)
    for name, value in (
        ("gradient_checkpointing", False),
        ("base_model_precision", "no_change"),
        ("optimizer", "optimi-adamw"),
        ("deterministic", True),
    ):
        other = work_of(plan(**{name: value}), TRUE_CONFIG, image_px=512**2)
        assert other.traits != usual.traits, name
    assert expected_px(plan()) == 1024**2
