"""``python -m xlm``: the same as ``xlm``."""

from __future__ import annotations

import sys

from xlm.cli import main

sys.exit(main())
