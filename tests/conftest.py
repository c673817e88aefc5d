"""Settings for every test."""

import os

# The tests run side by side (pytest -n); on small arrays several threads each only get in the way.
# Set before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Not tests: `make hostile` runs them, and tests/situations/test_hostile.py.
collect_ignore = ["hostile"]
