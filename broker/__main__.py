"""`python -m broker serve`: the broker without the client's command line."""

from broker.cli import main

if __name__ == "__main__":
    main(prog_name="python -m broker")
