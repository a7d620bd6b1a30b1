"""`python -m runner`."""

import sys

sys.dont_write_bytecode = True  # before the first import of ours: showing a plan writes no file

from runner.cli import main  # noqa: E402

raise SystemExit(main())
