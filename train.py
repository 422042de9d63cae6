"""Train an experiment: `python train.py experiment=digits`, the same as `mldec train experiment=digits`."""

import sys

from mldec.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
