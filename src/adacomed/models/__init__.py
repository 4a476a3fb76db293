"""Tensors in, tensors out: no files, no settings, no cohorts."""
