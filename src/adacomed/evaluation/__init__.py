"""How good predictions are and how sure that is, from a predictions table alone."""
