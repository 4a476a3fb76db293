"""The paper's experiments, on any cohort, beside the paper's own figures."""
