"""Settings for every test."""

import importlib.util
import os

# The tests run side by side (pytest -n); on small arrays several threads each only get in the way.
# Set before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Not tests: `make hostile` runs them, and tests/situations/test_hostile.py.
collect_ignore = ["hostile"]

# The extra underscript[onnx] needs torch 2.5: make test-oldest goes without.
if importlib.util.find_spec("onnx") is None:
    collect_ignore.append("repair/test_export.py")
