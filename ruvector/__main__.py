"""``python -m ruvector``: the console script of the same name."""

from ruvector.cli import main

raise SystemExit(main())
