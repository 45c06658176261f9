"""A project: its jobs, and the changes to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from napari_sta.data.errors import InputError, JobError, StaError
from napari_sta.io.files import inside, project_root, sentence_for
from napari_sta.io.project.folders import job_folders
from napari_sta.io.project.listing import ProjectJob, downstream_of, job_of, jobs_of, problems_of
from napari_sta.io.project.markers import MARKERS, STATUSES
from napari_sta.io.project.node_entries import touch_nodes
from napari_sta.io.project.pipeline_file import (
    PIPELINE_FILE,
    free_number,
    is_listed,
    job_counter,
    pipeline_lock,
    pipeline_tables,
    read_pipeline,
    used_numbers,
    write_pipeline,
)
from napari_sta.io.project.repair import remove_deserted, tables_to_change
from napari_sta.io.project.tables import (
    PipelineNode,
    add_node,
    add_outputs,
    add_row,
    filled,
    general_table,
    nodes_of,
    set_status,
    slashed,
    stays_inside,
)
from napari_sta.io.project.trash import restore_job, trash_job


class Project:
    """A RELION project folder.

    Parameters
    ----------
    root
        The folder that RELION runs in; all paths in RELION's files count from it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def __repr__(self) -> str:
        return f"Project({str(self.root)!r})"

    @classmethod
    def find(cls, path: str | Path = ".") -> Project | None:
        """Return the project that a file or folder belongs to, or None."""
        root = project_root(path)
        if root is not None:
            return cls(root)
        folder = Path(path).absolute()
        if folder.is_dir() and next(job_folders(folder), None) is not None:
            return cls(folder)
        return None

    def jobs(self) -> list[ProjectJob]:
        """Return every job, by number: those in the pipeline file, and folders it does not list.

        An exit marker in the folder counts more than a ``Running`` in the pipeline file, and so does
        the death of our process that ran the job. Rows whose name leads out of the project are left out;
        :meth:`problems` tells them.

        Raises
        ------
        InputError
            If the pipeline file cannot be read.
        """
        return jobs_of(self.root)

    def problems(self) -> list[str]:
        """Return a sentence for each thing in the pipeline file that keeps it from being changed."""
        return problems_of(self.root)

    def job(self, name: str) -> ProjectJob:
        """Return the job with this name.

        Raises
        ------
        InputError
            If the project has no such job, or the name leads out of the project.
        """
        return job_of(self.root, name)

    def nodes(self) -> list[PipelineNode]:
        """Return every file that the pipeline knows."""
        return nodes_of(pipeline_tables(self.root))

    @property
    def next_job(self) -> int:
        """The number that the next job gets."""
        raw = read_pipeline(self.root)
        tables = filled(raw)
        try:
            return free_number(self.root, tables, job_counter(self.root, raw) if raw else 1)
        except InputError:
            return max(used_numbers(self.root, tables), default=0) + 1

    def downstream(self, name: str) -> list[str]:
        """Return the names of jobs that read what this job wrote."""
        return downstream_of(self.root, name)

    def add_job(
        self,
        folder: str,
        type_label: str,
        inputs: Sequence[PipelineNode] = (),
        outputs: Sequence[PipelineNode] = (),
        first: Callable[[Path], None] | None = None,
    ) -> str:
        """Give a new job the next number, make its folder, and enter it as running.

        Parameters
        ----------
        folder
            ``Reconstruct``.
        inputs
            Files it reads, paths from the project folder.
        outputs
            Files it will write, paths from the *job* folder.
        first
            Called with the new, empty folder while the project is locked and the pipeline does not know
            the job yet: what it writes (the job's record) is there whenever the job is. If it fails, the
            folder is removed and nothing has changed.

        Returns
        -------
        name
            ``Reconstruct/job038/``.

        Raises
        ------
        InputError
            If the pipeline file cannot be changed, or the folder of the type is a link out of the project.
        JobError
            If the project stays locked by another program, or cannot be written to.
        """
        with pipeline_lock(self.root):
            tables = tables_to_change(self.root)
            remove_deserted(self.root, tables)
            number = free_number(self.root, tables, job_counter(self.root, tables))
            name = f"{folder}/job{number:03d}/"
            made = inside(self.root, name, "the folder of the new job")
            tables["pipeline_general"] = general_table(number + 1)
            add_row(tables, "pipeline_processes", (name, "None", type_label, "Running"))
            for node in inputs:
                if stays_inside(node.path):
                    add_node(tables, node)
                    add_row(tables, "pipeline_input_edges", (node.path, name))
            add_outputs(tables, name, outputs)
            try:
                made.mkdir(parents=True)
                try:
                    if first is not None:
                        first(made)
                    write_pipeline(self.root, tables)
                except BaseException:
                    if not is_listed(self.root, name):
                        shutil.rmtree(made, ignore_errors=True)
                    raise
            except OSError as error:
                raise JobError(sentence_for(error, made)) from error
        return name

    def finish_job(self, name: str, status: str, outputs: Sequence[PipelineNode] = ()) -> str:
        """Set a job's status, and enter the files it wrote (paths from the job folder).

        A job that the pipeline does not list is left alone.

        Returns
        -------
        warning
            Empty; or, where a job that has ended could not be entered (the project stays locked, the
            pipeline file is damaged, the disk full), a sentence saying so. Its exit marker counts until the
            row is brought in line, by RELION or by us, once either holds the lock.

        Raises
        ------
        InputError, JobError
            As :meth:`add_job`, for ``Running`` and ``Scheduled``.
        """
        if status not in STATUSES:
            raise ValueError(f"{status} is no job status of RELION")
        name = slashed(name)
        try:
            with pipeline_lock(self.root):
                tables = tables_to_change(self.root, apart_from=name)
                if not set_status(tables, name, status):
                    return ""
                nodes = add_outputs(tables, name, outputs)
                write_pipeline(self.root, tables)
        except StaError as error:
            if status not in MARKERS.values():
                raise
            return (
                f"{name} has ended ({status.lower()}), but {PIPELINE_FILE} does not say so yet: {error}; "
                "its files are complete, and the pipeline is corrected when the next job starts"
            )
        touch_nodes(self.root, nodes)
        return ""

    def trash_job(self, name: str) -> Path:
        """Move a job's folder to ``Trash/`` and take the job out of the pipeline.

        A folder that is a link is moved as a link.

        Returns
        -------
        folder
            Where it is now.

        Raises
        ------
        InputError
            If the job is running, other jobs use what it wrote, or anything that the pipeline says of it
            leads out of the project; nothing has changed then.
        JobError
            If the project stays locked by another program, or cannot be written to.
        """
        return trash_job(self.root, name)

    def restore_job(self, folder: str | Path) -> str:
        """Bring a job back from ``Trash/``, into the pipeline too if it was there.

        Parameters
        ----------
        folder
            Where :meth:`trash_job` put it.

        Returns
        -------
        name
            The job's name.

        Raises
        ------
        InputError
            If the folder is not there, its old place is taken, or anything that its ``job_pipeline.star``
            says leads out of the project; nothing has changed then.
        JobError
            If the project stays locked by another program, or cannot be written to.
        """
        return restore_job(self.root, folder)

    def lock(self, patience_s: float = 60.0) -> AbstractContextManager[None]:
        """Hold RELION's lock on the pipeline file.

        Raises
        ------
        JobError
            If another program does not release it within ``patience_s``, or the folder is read-only.
        """
        return pipeline_lock(self.root, patience_s)
