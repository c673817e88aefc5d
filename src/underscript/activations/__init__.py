"""A network as it is run: its layers, what they give, perturbed inputs, and streams of rows."""
