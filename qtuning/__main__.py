"""`python -m qtuning` is `qtuning`."""

from qtuning.cli import main

if __name__ == "__main__":
    main()
