"""Embedding and comparisons on a Ray cluster (extra `scale`), with the local engine's numbers."""
