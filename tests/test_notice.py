"""The data of others that the package brings along are named in NOTICE."""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_every_file_of_data_is_named() -> None:
    """Each CSV file, and each folder of data files from makers' documents, has its place in NOTICE."""
    data = ROOT / "src" / "wattwerk"
    files = [path.relative_to(ROOT).as_posix() for path in (data / "meters" / "data").glob("*.csv")]
    assert len(files) >= 2
    for name in [
        *files,
        "src/wattwerk/meters/data/modbus",
        "src/wattwerk/meters/data/snmp",
        "src/wattwerk/catalog/data",
    ]:
        assert name in NOTICE


def test_whose_rows_these_are() -> None:
    """The numbers of rows in NOTICE are those in the table, and no row has a source that NOTICE does not name."""
    with (ROOT / "src/wattwerk/meters/data/carbon_intensity.csv").open(encoding="utf-8") as file:
        sources = [row["source"] for row in csv.DictReader(file)]
    ember = sum(source.startswith("Ember yearly electricity data") for source in sources)
    world = sum(source.startswith("Our World in Data (Ember + Energy Institute, CC BY 4.0)") for source in sources)
    assert ember + world == len(sources)
    assert f"{ember} rows: Ember" in NOTICE
    assert f"{world} rows (Bermuda" in NOTICE
    with (ROOT / "src/wattwerk/meters/data/account_presets.csv").open(encoding="utf-8") as file:
        presets = [row["source"] for row in csv.DictReader(file)]
    known = ("dena", "Eurostat", "Uptime Institute", "EEA", "definition")
    assert [source for source in presets if not source.startswith(known)] == []
