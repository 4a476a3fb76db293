"""Hyperparameter search on validation patients, with Optuna; test patients have no part in it."""
