"""`python -m mldec` is the `mldec` command."""

from mldec.commands.main import main

if __name__ == "__main__":
    main()
