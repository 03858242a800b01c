"""Run the command line: ``python -m wattwerk``, or ``wattwerk``."""

import sys

from wattwerk import launch

#: Options of ``meter`` with which nothing is recorded.
_NOTHING_RECORDED = {"-h", "--help", "--telegraf", "--dashboard"}


def main() -> None:
    """Run the command line; the recorder's process begins while it is still being imported."""
    given = sys.argv[2:]
    options = given[: given.index("--")] if "--" in given else given
    if sys.argv[1:2] == ["meter"] and given and not _NOTHING_RECORDED & {one.partition("=")[0] for one in options}:
        launch.early()
    from wattwerk.cli import main as run

    run()


if __name__ == "__main__":
    main()
