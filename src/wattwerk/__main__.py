"""Run the command line: ``python -m wattwerk``, or ``wattwerk``."""

import sys

from wattwerk import launch

#: Options of ``meter`` that need no recorder, or one with other meters.
_NO_EARLY_RECORDER = {"-h", "--help", "--telegraf", "--dashboard", "--calibrate"}


def main() -> None:
    """Run the command line; the recorder's process begins while it is still being imported."""
    name, *given = sys.argv[1:] or [""]
    options = given[: given.index("--")] if "--" in given else given
    if name == "meter" and given and not _NO_EARLY_RECORDER & {one.partition("=")[0] for one in options}:
        launch.early()
        if not options:
            from wattwerk.meter_command import main as measure

            measure(given[1:])
    from wattwerk.cli import main as run

    run()


if __name__ == "__main__":
    main()
