"""Frozen single-modality models: files and texts → vectors."""
