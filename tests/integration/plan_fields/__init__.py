"""Each field of the plan: who acts on it, and a check that only its value passes."""

import pytest

pytest.register_assert_rewrite(
    *(
        f"tests.integration.plan_fields.fields_{part}"
        for part in ("adapter", "data", "objective", "operation", "training")
    )
)
