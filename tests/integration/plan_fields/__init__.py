"""Each field of the plan has a check that passes with its value and fails with another."""
