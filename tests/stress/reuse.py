"""Gives jobs a folder that is used already, and sees that nothing in it is lost or taken for a new result.

    python tests/stress/reuse.py

The folder holds the same job with other values or of other inputs, part of such a job (killed), another job,
or what another program wrote. The second run either refuses and changes nothing, or leaves exactly what it
leaves in a new folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from _forks import Forks, Outcome
from _project import CASES, Report, copy, differences, everything, results, workbench

OUT = "Own/job900"

CHANGES: dict[str, tuple[dict[str, str], ...]] = {
    "extract": (
        {"apply_ctf": "No"}, {"invert_contrast": "No"}, {"float16": "No"}, {"circle_crop": "No"}, {"binning": "1.2"},
        {"crop_size_px": "12"}, {"stack2d": "No"}, {"max_dose_e_per_angst2": "20"},
        {"in_optimisation_set": "Moved/optimisation_set.star"}, {"in_optimisation_set": "Fewer/optimisation_set.star"},
    ),
    "extract_3d": ({"apply_ctf": "No"}, {"stack2d": "Yes"}, {"box_size_px": "24"}, {"in_optimisation_set": "Moved/optimisation_set.star"}),
    "reconstruct": ({"symmetry": "C2"}, {"crop_size_px": "12"}, {"crop_size_px": "20"}, {"merged_only": "Yes"}, {"wiener_snr": "1"}),
    "refine": ({"seed": "2"}, {"max_iterations": "2"}, {"mask_diameter_angst": "56"}, {"in_mask": "masks/mask.mrc"}, {"zero_mask": "No"}),
    "postprocess": ({"in_mask": ""}, {"adhoc_bfactor_angst2": "-50"}, {"mtf_file": ""}, {"lowpass_angst": "30"}),
    "make_mask": ({"invert": "Yes"}, {"threshold": "0.02"}, {"extend_px": "1"}),
    "process_map": ({"lowpass_angst": "24"}, {"invert_hand": "Yes"}, {"box_size_px": "12"}),
    "measure_offset": ({"axis": "x"}, {"range_px": "2"}),
    "reconstruct_tomograms": ({"binned_pixel_size_angst": "16"}, {"split": "Yes"}, {"size_z_px": "40"}, {"snr": "3"}),
    "recenter": ({"center_z_px": "3"}, {"center_x_px": "1"}, {"in_optimisation_set": "Fewer/optimisation_set.star"}),
    "remove_duplicates": ({"min_distance_angst": "300"}, {"min_distance_angst": "1"}, {"rule": "geometric"}),
}  # fmt: skip
"""What is another run of each case."""

FOREIGN = {
    "extract": ("Subtomograms/TS_01/1_stack2d.mrcs", "particles.star"),
    "extract_3d": ("Subtomograms/TS_01/1_data.mrc",),
    "reconstruct": ("data_half1.mrc", "weight_merged.mrc", "merged.mrc"),
    "refine": ("run_it007_data.star", "run_it007_half1_class001.mrc", "run.job", "run_it007_optimiser.star"),
    "postprocess": ("postprocess.star", "postprocess_fsc.xml"),
    "remove_duplicates": ("particles_removed.star",),
}
"""Files of other programs, beside those that every case gets."""


def prepare(root: Path, forks: Forks) -> None:
    """Make the particle sets that the changes name: one moved, one of fewer particles."""
    for words in (
        CASES["recenter"].words(center_z_px="2", o="Moved"),
        CASES["remove_duplicates"].words(min_distance_angst="100", o="Fewer"),
    ):
        outcome = forks.run([*words, "--quiet"], root)
        if outcome.status != 0:
            raise SystemExit(outcome.err)


def alter(root: Path, case: str) -> None:
    """Change what a case reads, keeping names and sizes: turned particles, or darker maps."""
    import numpy as np

    from napari_sta.io.relion.particles import read_particles, write_particles

    for path in (root / "Select/job002/particles.star", root / "Extract/job003/particles.star"):
        particles = read_particles(path)
        particles.angles_deg[:, 0] += 20.0
        write_particles(path, particles)
    for path in (root / "truth/truth_map.mrc", root / "Reconstruct/job004/half1.mrc"):
        data = path.read_bytes()
        values = np.frombuffer(data, "<f4", offset=1024) * np.linspace(
            0.8, 1.0, (len(data) - 1024) // 4, dtype="<f4"
        )
        path.write_bytes(data[:1024] + values.tobytes())


class Reuser:
    """Runs cases in folders that are used, and in new ones."""

    def __init__(self, forks: Forks, project: Path, scratch: Path, report: Report) -> None:
        self.forks, self.project, self.scratch, self.report = forks, project, scratch, report

    def _run(self, root: Path, case: str, changes: dict[str, str] | None = None, *more: str) -> Outcome:
        return self.forks.run([*CASES[case].words(**(changes or {})), "--quiet", "--o", OUT, *more], root)

    def _root(self, altered: str = "") -> Path:
        root = copy(self.project, self.scratch / "used")
        if altered:
            alter(root, altered)
        return root

    def _fresh(self, case: str, changes: dict[str, str], altered: bool) -> dict[str, str]:
        root = self._root(case if altered else "")
        outcome = self._run(root, case, changes)
        if outcome.status != 0:
            raise SystemExit(f"{case} {changes} does not run: {outcome.last_line}")
        return results(root / OUT, root)

    def again(
        self,
        case: str,
        changes: dict[str, str],
        *,
        altered: bool = False,
        killed: bool = False,
        resumed: bool = False,
    ) -> None:
        """Run a case, whole or killed in the middle; then with changes, or of other inputs, or resume it then."""
        truth = self._fresh(case, changes, altered)
        root = self._root()
        if killed:
            self._kill(root, case)
        elif (first := self._run(root, case)).status != 0:
            raise SystemExit(f"{case} does not run: {first.last_line}")
        if altered:
            alter(root, case)
        there = results(root / OUT, root)
        outcome = (
            self.forks.run(["resume", OUT, "--quiet", "--j", "1"], root)
            if resumed
            else self._run(root, case, changes)
        )
        what = f"{case}{' killed,' if killed else ''} then {'resumed' if resumed else 'run'} with {changes or 'the same values'}"
        what += " and changed inputs" if altered else ""
        if outcome.status == 2:
            # A refusal may tidy temporary files and logs, but not results.
            self.report.check(
                not (lost := differences(there, results(root / OUT, root))),
                f"{what}: refused, but {lost[:4]}",
            )
        elif outcome.status == 0:
            wrong = differences(truth, results(root / OUT, root))
            self.report.check(
                not wrong, f"{what}: against a new folder {wrong[:4]}{' …' if len(wrong) > 4 else ''}"
            )
        else:
            self.report.check(False, f"{what}: ended with {outcome.status}: {outcome.last_line}")

    def _kill(self, root: Path, case: str) -> None:
        told = self.scratch / "steps"
        told.unlink(missing_ok=True)
        tried = copy(root, self.scratch / "tried")
        words = [*CASES[case].words(), "--quiet", "--o", OUT]
        self.forks.run(words, tried, before="kills:watch", root=str(tried), told=str(told))
        steps = len(told.read_text().splitlines())
        self.forks.run(
            words, root, before="kills:watch", root=str(root), signal_name="SIGKILL", at=steps * 2 // 3
        )

    def foreign(self, case: str, owner: str) -> None:
        """Give a case the folder of another job, or of another program (``owner`` is a file name then)."""
        root = self._root()
        out = root / OUT
        if owner in CASES:
            if (first := self._run(root, owner)).status != 0:
                raise SystemExit(f"{owner} does not run: {first.last_line}")
        else:
            (out / owner).parent.mkdir(parents=True)
            shutil.copyfile(root / "truth/truth_map.mrc", out / owner)
        before = everything(out)
        outcome = self._run(root, case)
        lost = differences(before, everything(out))
        self.report.check(
            outcome.status == 2 and not lost and len(outcome.err.strip().splitlines()) == 1,
            f"{case} into a folder with {owner} of somebody else: status {outcome.status}, {lost[:4]} {outcome.last_line}",
        )


def run(
    project: Path, scratch: Path, report: Report, cases: Sequence[str], forks: Forks, *, quick: bool = False
) -> None:
    """Reuse folders in every way; ``quick`` leaves out most of the pairs."""
    ready = copy(project, scratch / "ready")
    prepare(ready, forks)
    reuser = Reuser(forks, ready, scratch, report)
    for case in cases:
        before = len(report.failures)
        for changes in CHANGES[case][:2] if quick else CHANGES[case]:
            reuser.again(case, changes)
            reuser.again(case, changes, killed=True)
        reuser.again(case, {}, altered=True)
        reuser.again(case, {}, altered=True, killed=True)
        reuser.again(case, {}, altered=True, killed=True, resumed=True)
        reuser.again(case, {}, killed=True, resumed=True)
        reuser.again(case, {})
        names = (*FOREIGN.get(case, ()), "notes of mine.txt", "run_it003_model.star", "x/y.mrc")
        owners = [owner for owner in CASES if CASES[owner].job != CASES[case].job]
        for owner in (*names[:3], *owners[:1]) if quick else (*names, *owners):
            reuser.foreign(case, owner)
        print(f"{case}: {len(report.failures) - before} failed", flush=True)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="one case only; may be repeated")
    found = parser.parse_args()
    report = Report("reused folders")
    with workbench() as (project, scratch), Forks() as forks:
        run(project, scratch, report, found.case or list(CASES), forks)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
