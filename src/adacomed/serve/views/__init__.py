"""A patient's inputs as people look at them: images, series, tables, notes."""
