"""Bad inputs and faults, generated from lists: each is right, a clear error, or a fault."""
