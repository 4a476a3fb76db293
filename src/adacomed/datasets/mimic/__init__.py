"""MIMIC-IV-MM: X-ray, note and time series of intensive care stays, from the raw release."""
