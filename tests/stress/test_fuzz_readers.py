"""A short run of the fuzzer; the long one is ``python tests/stress/fuzz_readers.py``."""

from __future__ import annotations

from pathlib import Path

import fuzz_readers
import pytest
from _forks import MAKING_S, Forks


@pytest.fixture(scope="module")
def seeds(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / "seeds"
    made = forks.call("fuzz_readers:make_seeds", MAKING_S, root=str(root))
    assert made.status == 0, made.err
    return root


def test_readers_answer_harmed_files_with_data_or_a_sentence(seeds):
    fuzz = fuzz_readers.Fuzz(seeds, seed=9, reads=1500, jobs=2)
    assert fuzz.reads == 1500
    assert not fuzz.faults


def test_the_same_seed_harms_the_same(seeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harmer = fuzz_readers.Harmer(seeds, tmp_path / "project")
    assert harmer.choose(3, 77) == harmer.choose(3, 77)
    assert len({harmer.choose(3, i).data for i in range(40)}) > 30
    assert {target.kind for target in fuzz_readers.TARGETS} == {"star", "mrc", "json", "zip"}
