"""Run the command line with ``python -m wattwerk``."""

from wattwerk.cli import main

if __name__ == "__main__":
    main()
