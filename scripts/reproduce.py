"""Reproduce a table of the paper: `python scripts/reproduce.py table=5`, the same as `mldec table 5`."""

import sys

from mldec.__main__ import main

if __name__ == "__main__":
    main(["table", *sys.argv[1:]])
