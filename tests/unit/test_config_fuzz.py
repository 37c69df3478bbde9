"""Whatever is sent, the answer is a plan or a list of problems."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import SMALL_CONFIG, SMALL_LYCORIS, SUBJECT, import_small
from trainer_core.config.plan import Plan
from trainer_core.config.plan.problems import PlanError, Problem
from trainer_core.config.simpletuner.backends import BACKEND_OPTIONS
from trainer_core.config.simpletuner.lokr import LYCORIS
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.presets import PRESET

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["true", "false", "1e3", "-1", "nan", "inf", "1_000", "\uff10", "latest"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def changes(names: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(sorted(names)) | st.text(max_size=9), VALUES, max_size=4)


@settings(deadline=None, max_examples=200)
@given(
    changes(OPTIONS),
    changes(LYCORIS.rows),
    st.none() | changes(PRESET.rows),
    changes(BACKEND_OPTIONS),
    st.sampled_from(["http", "local"]),
)
def test_any_input_is_a_plan_or_problems(
    config: dict[str, Any],
    lycoris: dict[str, Any],
    preset: dict[str, Any] | None,
    backend: dict[str, Any],
    source: str,
) -> None:
    if preset is not None:
        lycoris = {**lycoris, "apply_preset": preset}
    problems: tuple[Problem, ...] = ()
    plan: Plan | None = None
    try:
        masks = {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"}
        images = {**SUBJECT, "conditioning_data": "masks"}
        backends = [{**images, **backend}, {**masks, "instance_data_dir": "masks"}]
        plan = import_small(config, lycoris=lycoris, backends=backends, source=source).plan
    except PlanError as error:
        problems = error.problems

    assert (plan is None) == bool(problems)
    assert all(problem.pointer.startswith("/") for problem in problems)
    assert json.dumps([problem.message for problem in problems])
    if plan is not None:
        stored = json.loads(json.dumps(plan.model_dump(mode="json"), allow_nan=False))
        assert Plan.model_validate(stored) == plan


def test_the_examples_alone_make_a_plan() -> None:
    assert import_small(SMALL_CONFIG, lycoris=SMALL_LYCORIS, backends=[SUBJECT])
