"""Raw releases, and a simulator, as cohorts: one file each."""
