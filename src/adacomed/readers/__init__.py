"""Files of each kind as arrays, with units."""
