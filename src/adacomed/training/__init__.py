"""The one loop, the choices made on validation, the grid, the run on disk."""
