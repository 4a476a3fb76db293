"""AdaCoMed: multi-modal medical diagnosis by collaboration of large and small models."""

__version__ = "0.2.0"
