"""What comes in: batches, sources of them, fingerprints of inputs, duplicates, tables from disk."""
