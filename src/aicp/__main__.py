"""`python -m aicp` is `aicp`."""

import sys

from aicp.cli.main import main

sys.exit(main())
