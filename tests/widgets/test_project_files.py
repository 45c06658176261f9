"""What a project holds, and what the next job takes from it."""

from __future__ import annotations

from napari_sta.jobs._job import all_jobs, job_named
from napari_sta.widgets.project_files import next_values, read_project


def test_next_gives_no_file_twice_and_post_processing_is_ready(project):
    view = read_project(project)
    for made in view.by_job.values():
        for job_class in all_jobs().values():
            values = next_values(job_class, made, view.files) or {}
            assert len(set(values.values())) == len(values), job_class
    job = job_named("postprocess")
    job.from_text(next_values(job, view.by_job["Reconstruct/job003"], view.files)).check()


def test_set_is_preferred_to_its_parts(project):
    view = read_project(project)
    values = next_values(job_named("reconstruct"), view.by_job["Select/job002"], view.files)
    assert list(values) == ["in_optimisation_set"]
