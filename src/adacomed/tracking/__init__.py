"""Finished runs in MLflow, local unless the user says otherwise."""
