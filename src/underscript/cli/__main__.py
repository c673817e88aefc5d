"""``python -m underscript.cli``: the same command."""

import sys

from .command_line import main

sys.exit(main())
