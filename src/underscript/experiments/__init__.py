"""The paper that underscript comes from: its networks, data, training and comparisons."""
