"""`python -m headrace.cli`: the command line of this very interpreter, wherever its scripts are installed."""

from headrace.cli import main

if __name__ == "__main__":
    main(prog_name="headrace")
