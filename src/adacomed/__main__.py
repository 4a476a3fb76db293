"""`python -m adacomed`: the command line."""

from adacomed.cli import main

if __name__ == "__main__":
    main()
