"""Why the model says what it says: by modality, inside a modality, and over a cohort."""
