"""How large a report is and how fast a browser opens it: words, first chart, all charts.

    PYTHONPATH=.:src python benchmarks/report_opening.py [--records 500] [--runs 5] [--language de]

Needs playwright and a Chromium, Chrome or Edge. Each run is a fresh browser context; times are those of the page's own
clock, from the start of loading. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from tests.bench.samples import large_sweep

from wattwerk.bench.report import write_report
from wattwerk.bench.report.pictures import find_browser
from wattwerk.language import speaking

_TIMES = """() => ({
  'words, s': performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000,
  'first chart, s': performance.getEntriesByName('first chart')[0].startTime / 1000,
  'all charts, s': performance.getEntriesByName('all charts')[0].startTime / 1000,
})"""


def opened(browser: Browser, address: str) -> dict[str, float]:
    """Return the times of one opening."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.wait_for_selector('html[data-charts="drawn"]', timeout=300_000)
    found: dict[str, float] = page.evaluate(_TIMES)
    page.close()
    return found


def main() -> None:
    """Write a report, open it several times, print size and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--language", default="en")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "report.html"
        with speaking(asked.language):
            write_report(large_sweep(asked.records), path)
        print(f"{asked.records} records: {path.stat().st_size / 1e6:.2f} MB")
        options: dict[str, Any] = {"executable_path": find_browser(), "args": ["--no-sandbox", "--disable-gpu"]}
        browser = playwright.chromium.launch(**options)
        print(f"Chromium {browser.version}")
        times = [opened(browser, path.as_uri()) for _ in range(asked.runs)]
        for name in times[0]:
            values = [each[name] for each in times]
            print(f"{name}: median {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}")
        browser.close()


if __name__ == "__main__":
    main()
