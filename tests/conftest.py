"""Settings for every test."""

import torch

# The tests run side by side (pytest -n); on small arrays several threads each only get in the way.
torch.set_num_threads(1)
