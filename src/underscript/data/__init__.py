"""Input data: batches, sources, fingerprints of inputs, duplicates, tables from disk."""
