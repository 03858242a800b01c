"""How large a report is and how fast a browser opens it: words, first chart, all charts, longest task.

    PYTHONPATH=.:src python benchmarks/report_opening.py [--records 500] [--runs 5] [--language de]

Needs playwright and a Chromium, Chrome or Edge. Each run is a fresh browser context, opened where the first chart is on
the screen; times are those of the page's own clock, from the start of loading, and a chart counts when it has been
painted. The longest task is the longest time for which the page did not answer after the first chart was there. Run it
on a machine that does nothing else.
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

#: listens before the page begins; asking again and again would slow down what is measured
_LISTEN = """
  window.tasks = [];
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries())).observe({ type: 'longtask' });
  window.finished = new Promise((resolve) => new PerformanceObserver((list) => {
    if (list.getEntriesByName('all charts').length) resolve();
  }).observe({ type: 'mark' }));
"""
_TIMES = """async () => {
  await window.finished;
  const at = (name) => performance.getEntriesByName(name)[0].startTime;
  const later = window.tasks.filter((task) => task.startTime > at('first chart')).map((task) => task.duration);
  return {
    'words, s': at('first-contentful-paint') / 1000,
    'first chart, s': at('first chart') / 1000,
    'all charts, s': at('all charts') / 1000,
    'longest task after the first chart, s': Math.max(0, ...later) / 1000,
  };
}"""


def opened(browser: Browser, address: str) -> dict[str, float]:
    """Return the times of one opening."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(_LISTEN)
    page.goto(address, wait_until="commit")
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
        times = [opened(browser, f"{path.as_uri()}#latency") for _ in range(asked.runs)]
        for name in times[0]:
            values = [each[name] for each in times]
            print(f"{name}: median {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}")
        browser.close()


if __name__ == "__main__":
    main()
