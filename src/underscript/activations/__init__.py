"""Run a network: its layers and their rows, batch by batch, on plain and perturbed inputs."""
