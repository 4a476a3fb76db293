"""The paper's experiments, each on a cohort of the user's choice, beside the paper's own figures."""
