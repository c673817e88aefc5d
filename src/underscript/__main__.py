"""``python -m underscript``: the same command."""

import sys

from .cli.command_line import main

sys.exit(main())
