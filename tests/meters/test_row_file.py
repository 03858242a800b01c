from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wattwerk.errors import ConfigError
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.row_file import RowFile
from wattwerk.meters.tail import RowReader

SMALL = 16 * 24  # bytes: 16 rows of one value


def write(rows: RowFile, numbers: range) -> None:
    """Append rows with these values."""
    for number in numbers:
        rows.append(number, number, [float(number)])


def values(reader: RowReader, most: int = 100_000) -> list[float]:
    """Return the values of what is new."""
    return [float(row[0]) for row in reader.read(most)["values"]]


def test_rows_pass_from_file_to_file(tmp_path: Path) -> None:
    """Readers get every row once and in order, however many files there are and however few they ask for at once."""
    rows = RowFile(tmp_path / "rows", 1, segment_bytes=SMALL)
    quick, slow = (RowReader(tmp_path / "rows", 1, SMALL) for _ in range(2))
    seen: list[float] = []
    for number in range(0, 100, 7):
        write(rows, range(number, number + 7))
        seen += values(quick)
    assert seen == list(range(105))
    assert len(list(tmp_path.iterdir())) == 7
    late: list[float] = []
    while found := values(slow, 5):
        late += found
    assert late == seen
    assert (quick.lost, slow.lost, quick.written()) == (0, 0, 105)
    skipping = RowReader(tmp_path / "rows", 1, SMALL, skip=True)
    write(rows, range(105, 130))
    assert values(skipping) == list(range(105, 130))
    for each in (quick, slow, skipping, rows):
        each.close()


def test_old_files_go_and_a_late_reader_says_what_it_missed(tmp_path: Path) -> None:
    """With keep_s the disk is bounded; a reader that comes too late begins with the oldest row and counts the rest."""
    rows = RowFile(tmp_path / "rows", 1, keep_s=0.05, segment_bytes=SMALL)
    early, late = (RowReader(tmp_path / "rows", 1, SMALL) for _ in range(2))
    write(rows, range(3))
    assert values(early) == [0, 1, 2]
    write(rows, range(3, 160))
    time.sleep(0.1)
    write(rows, range(160, 165))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.000010"]
    assert values(late) == list(range(160, 165))
    assert late.lost == 160
    assert values(early) == [*range(3, 16), *range(160, 165)]  # the file that it had open was still its own
    assert early.lost == 144
    for each in (early, late, rows):
        each.close()


def test_reading_while_files_go(tmp_path: Path) -> None:
    """A reader beside a writer that removes files gets rows in order; each is either read or counted as missed."""
    rows = RowFile(tmp_path / "rows", 1, keep_s=0.002, segment_bytes=SMALL)
    writer = threading.Thread(target=write, args=(rows, range(20_000)))
    reader = RowReader(tmp_path / "rows", 1, SMALL)
    writer.start()
    seen: list[float] = []
    while writer.is_alive():
        seen += values(reader, 11)
    writer.join()
    seen += values(reader)
    assert seen == sorted(seen)
    assert len(seen) + reader.lost == 20_000
    reader.close()
    rows.close()


def recorder(**options: Any) -> Recorder:
    """Return a recorder of a fake meter at 500 Hz, with files of 64 rows."""
    made = Recorder([MeterSpec("wattwerk.testing:FakeMeter")], rate_hz=500, **options)
    made._segment_bytes = 64 * 32
    return made


def test_a_recorder_that_keeps_a_while_is_bounded() -> None:
    """With keep_s there are a few files and a few seconds in memory; who follows misses nothing all the same."""
    with recorder(keep_s=0.5) as bounded:
        tail = bounded.follow()
        begin_ns, followed = time.perf_counter_ns(), []
        while time.perf_counter_ns() - begin_ns < 2_500_000_000:
            time.sleep(0.1)
            followed.append(tail.read().time_ns)
        files = list(bounded._folder.glob("rows.*"))
        trace = bounded.trace()
        followed.append(tail.read().time_ns)
        tail.close()
        assert len(files) <= 0.5 * 500 / 64 + 3
        assert bounded.cost().samples > 600
    times = np.concatenate(followed)
    assert tail.lost == 0
    assert len(times) > 600
    assert np.all(np.diff(times) > 0)
    age_s = (time.perf_counter_ns() - trace.time_ns) / 1e9
    assert age_s.max() < 3.0
    assert len(trace.time_ns) < len(times) / 2
    assert set(trace.values[:, 1]) == {100.0}


def test_a_recorder_that_keeps_all() -> None:
    """Without keep_s every sample from the first on is there, over all files, also after the end."""
    with recorder() as whole:
        time.sleep(0.8)
        begin_ns = whole.trace().time_ns[0]
        assert len(list(whole._folder.glob("rows.*"))) > 2
        time.sleep(0.4)
    trace = whole.trace()
    assert trace.time_ns[0] == begin_ns
    assert len(trace.time_ns) >= whole.cost().samples > 100  # it is counted shortly before the end


@pytest.mark.parametrize("keep_s", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_are_none(keep_s: float) -> None:
    """Keeping for no time is refused before anything starts."""
    with pytest.raises(ConfigError, match="keeping samples"):
        Recorder([], keep_s=keep_s)
