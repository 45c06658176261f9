"""The log of a run, on a disk that is full."""

from __future__ import annotations

import errno
import io
import logging

from napari_sta.io.files import sentence_for
from napari_sta.jobs._run_log import run_log


def test_a_disk_full_from_the_start(tmp_path):
    """The sentence about the disk must survive that not even the log can be written."""

    class FullDisk(io.TextIOBase):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    warnings: list[str] = []
    with run_log(tmp_path, warnings) as log:
        files = [handler for handler in log.handlers if isinstance(handler, logging.StreamHandler)]
        assert len(files) == 2
        for handler in files:
            handler.stream.close()
            handler.stream = FullDisk()
        log.warning("not written anywhere")
    assert [(tmp_path / name).read_text() for name in ("run.out", "run.err")] == ["", ""]
    assert warnings == ["not written anywhere"]
    assert "disk is full" in sentence_for(OSError("Not enough free space to write 28 bytes"), "map.mrc")


def test_two_files_and_what_is_shown_at_the_end(tmp_path, caplog):
    warnings: list[str] = []
    with run_log(tmp_path, warnings) as log:
        log.info("taken up")
        log.warning("one image is missing")
        log.error("it failed")
    out, err = ((tmp_path / name).read_text().splitlines() for name in ("run.out", "run.err"))
    assert [line.split(" ", 2)[2] for line in out] == [
        "INFO taken up",
        "WARNING one image is missing",
        "ERROR it failed",
    ]
    assert err == out[1:]
    assert warnings == ["one image is missing"]
    assert not log.handlers
