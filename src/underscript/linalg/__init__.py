"""Second moments and kept rows, their spectra, bases, and which products decide."""
