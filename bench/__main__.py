"""`python -m bench` is `bench`."""

from bench.commands.app import main

if __name__ == "__main__":
    main()
