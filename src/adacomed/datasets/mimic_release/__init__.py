"""A generated MIMIC-IV release in its real layout, with the true cohort beside it."""
