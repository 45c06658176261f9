from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_job_pages_are_current():
    result = subprocess.run(
        [sys.executable, ROOT / "docs/gen_job_pages.py", "--check"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_drawing_of_the_architecture_is_current():
    result = subprocess.run(
        [sys.executable, ROOT / "docs/gen_architecture.py", "--check"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_architecture_names_only_what_exists():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:data|kernels|io|engine|jobs)/\w[\w/]*(?:\.py)?)`", text))
    assert len(paths) > 15
    for path in paths:
        place = ROOT / "src/napari_sta" / path
        assert place.exists() or place.with_suffix(".py").exists(), path


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "docs/conventions.md", "docs/architecture.md"]
)
def test_links_between_files_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), f"{name} points to {target}"


def test_readme_names_only_jobs_and_options_that_exist():
    from napari_sta.jobs._job import all_jobs

    jobs = all_jobs()
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    seen = 0
    for line in re.findall(r"^napari-sta (.+)$", text, flags=re.MULTILINE):
        words = line.split()
        if words[0] not in jobs:
            assert words[0] in {"open", "demo", "info", "resume"}, line
            continue
        for word in words[1:]:
            if word.startswith("--") and word not in {"--o", "--j", "--device", "--json", "--quiet"}:
                assert word[2:] in jobs[words[0]].model_fields, f"{word} in README: {line}"
                seen += 1
    assert seen > 5
