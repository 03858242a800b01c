"""Run the command line: ``python -m wattwerk``, or ``wattwerk``."""

import sys

from wattwerk import launch

#: Options of ``meter`` with which nothing is recorded.
_NOTHING_RECORDED = {"-h", "--help", "--telegraf", "--dashboard"}


def main() -> None:
    """Run the command line; the recorder's process begins while it is still being imported."""
    name, *given = sys.argv[1:] or [""]
    options = given[: given.index("--")] if "--" in given else given
    if name == "meter" and given and not _NOTHING_RECORDED & {one.partition("=")[0] for one in options}:
        launch.early()
        if not options:
            from wattwerk.meter_command import main as measure

            measure(given[1:])
    from wattwerk.cli import main as run

    run()


if __name__ == "__main__":
    main()
