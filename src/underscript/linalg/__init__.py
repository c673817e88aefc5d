"""Linear algebra: second moments, kept rows, spectra, class bases, exact and fast products."""
