"""A post-processing result is read as the job left it."""

from __future__ import annotations

import shutil

from napari_sta.widgets.result import read_result


def test_half_maps_whose_names_tell_nothing_go_to_a_new_job_both(processed, tmp_path):
    folder = tmp_path / "PostProcess/job001"
    shutil.copytree(processed / "PostProcess/job004", folder)
    star = (folder / "postprocess.star").read_text()
    for half, name in (("half1", "even.mrc"), ("half2", "odd.mrc")):
        shutil.copy(processed / f"Reconstruct/job003/{half}.mrc", folder / name)
        star = star.replace(f"Reconstruct/job003/{half}.mrc", str(folder / name))
    (folder / "postprocess.star").write_text(star)
    result = read_result(folder, maps=False)
    assert (result.half_map, result.half_map2) == (str(folder / "even.mrc"), str(folder / "odd.mrc"))
