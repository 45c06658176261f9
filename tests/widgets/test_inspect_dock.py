"""Inspect shows the file's numbers, and its sliders do what the kernel does."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from napari_sta.io.mrc import read_volume
from napari_sta.io.star import read_star
from napari_sta.layers.read import read_layers
from napari_sta.widgets.inspect_dock import InspectDock
from napari_sta.widgets.result import IGNORED_MASK, read_result


@pytest.fixture
def dock(viewer, qtbot, bench, processed, wait):
    made = InspectDock(viewer)
    qtbot.addWidget(made)
    made.resize(380, 680)
    made.show()
    bench.open_project(processed)
    wait(lambda: bench.view is not None)
    return made


@pytest.fixture
def loaded(dock, processed, wait):
    dock.load(str(processed / "PostProcess/job004"))
    wait(lambda: dock.result is not None, 30)
    return dock


def shown(viewer):
    return next(layer for layer in viewer.layers if layer.name.endswith("· postprocess"))


def test_numbers_are_those_of_the_file(loaded, processed):
    general = read_star(processed / "PostProcess/job004/postprocess.star")["general"].row()
    fsc = read_star(processed / "PostProcess/job004/postprocess.star")["fsc"]
    assert f"{float(general['rlnFinalResolution']):.2f} Å" in loaded.headline.text()
    assert "B −100 Å²" in loaded.headline.text()
    assert "Nyquist 8 Å" in loaded.headline.text()
    line = loaded.fsc._lines["corrected"]
    np.testing.assert_allclose(
        line.get_ydata(), fsc["rlnFourierShellCorrelationCorrected"].astype(float), atol=0
    )
    np.testing.assert_allclose(line.get_xdata(), fsc["rlnResolution"].astype(float), atol=0)
    assert loaded.controls.bfactor_box.value() == -100
    assert loaded.controls.lowpass_angst is None  # the job gave none: FSC weighting takes its place
    assert loaded.guinier.panes[0].lines


def test_both_results_of_the_project_are_offered(dock):
    words = [dock.chooser.itemText(i) for i in range(dock.chooser.count())]
    assert words[1:] == ["PostProcess/job005", "PostProcess/job004"]


def test_map_is_shown_in_angstrom_with_the_mask_contour(loaded, viewer, processed):
    layer = shown(viewer)
    volume = read_volume(processed / "PostProcess/job004/postprocess.mrc")
    np.testing.assert_array_equal(layer.data, volume.data)
    np.testing.assert_allclose(layer.data_to_world(np.array(volume.data.shape) // 2), 0, atol=1e-6)
    kinds = [one.metadata["napari_sta"]["kind"] for one in viewer.layers]
    assert kinds == ["map", "mask", "contour"]


def test_sliders_resharpen_as_the_kernel_does(loaded, viewer, processed, wait):
    from napari_sta.kernels.filters import sharpen_map

    halves = [read_volume(processed / f"Reconstruct/job003/half{i}.mrc") for i in (1, 2)]
    mean = (halves[0].data + halves[1].data) / 2
    fsc = loaded.result.curves["corrected"]
    before = shown(viewer).data
    loaded.controls.lowpass_box.setValue(16.0)
    loaded.controls.bfactor.setValue(-200)
    expected = sharpen_map(mean, halves[0].pixel_size_angst, -200.0, 16.0, fsc)
    wait(lambda: shown(viewer).data is not before and np.allclose(shown(viewer).data, expected, atol=1e-5))
    loaded.controls.weighting.setChecked(False)
    plain = sharpen_map(mean, halves[0].pixel_size_angst, -200.0, 16.0, None)
    wait(lambda: np.allclose(shown(viewer).data, plain, atol=1e-5))
    loaded.controls.in_mask.setChecked(True)
    mask = read_volume(processed / "masks/mask_fsc.mrc").data
    wait(lambda: np.allclose(shown(viewer).data, plain * mask, atol=1e-5))
    loaded.restore()
    np.testing.assert_array_equal(
        shown(viewer).data, read_volume(processed / "PostProcess/job004/postprocess.mrc").data
    )
    assert loaded.controls.weighting.isChecked()


def test_file_values_give_the_file_map(loaded, viewer, processed, wait):
    """The job's own parameters, applied live, reproduce postprocess.mrc."""
    original = read_volume(processed / "PostProcess/job004/postprocess.mrc").data
    loaded._sharpen()
    wait(lambda: loaded._sharpening.idle and shown(viewer).data is not loaded.result.map.data)
    assert np.corrcoef(shown(viewer).data.ravel(), original.ravel())[0, 1] >= 0.9999


def test_click_on_the_curve_low_passes_there(loaded, wait):
    class Click:
        inaxes = loaded.fsc.panes[0]
        xdata, ydata = 1 / 20.0, 0.5

    loaded.fsc._click(Click())
    assert loaded.controls.lowpass_box.value() == pytest.approx(20.0, abs=0.01)
    assert loaded.fsc._at_lowpass.get_xdata()[0] == pytest.approx(0.05, abs=1e-4)
    loaded.fsc._over(Click())
    shell = int(np.argmin(np.abs(loaded.result.frequency_inv_angst - 0.05)))
    assert f"corrected {loaded.result.curves['corrected'][shell]:.3f}" in loaded.readout.text()


def test_compare_overlays_and_blinks(loaded, viewer, processed, wait):
    loaded.compare.setCurrentIndex(loaded.compare.findText("PostProcess/job005"))
    wait(lambda: loaded.other is not None and len(loaded.fsc._other_line.get_xdata()) > 0)
    np.testing.assert_array_equal(loaded.fsc._other_line.get_ydata(), loaded.other.curves["corrected"])
    assert "than PostProcess/job005" in loaded.headline.text()
    here, there = shown(viewer), viewer.layers["PostProcess/job005 · postprocess [1]"] if (
        "PostProcess/job005 · postprocess [1]" in viewer.layers
    ) else viewer.layers["PostProcess/job005 · postprocess"]  # fmt: skip
    assert (here.visible, there.visible) == (True, False)
    loaded.blink()
    assert (here.visible, there.visible) == (False, True)
    loaded.blink()
    assert (here.visible, there.visible) == (True, False)
    loaded.compare.setCurrentIndex(0)
    assert loaded.other is None


def test_warnings_are_lifted_in_words(processed, tmp_path, dock, wait):
    folder = tmp_path / "PostProcess/job009"
    shutil.copytree(processed / "PostProcess/job004", folder)
    (folder / "run.err").write_text(
        "WARNING: Unmasked FSC extends beyond masked FSC. Skip masking for now\n"
        "2026-01-02 03:04:05 WARNING mask_fsc.mrc leaves 0..1\n"
    )
    assert read_result(folder, maps=False).warnings == [IGNORED_MASK, "mask_fsc.mrc leaves 0..1"]
    dock.load(str(folder))
    wait(dock.warning.isVisible)
    assert "ignored the mask" in dock.warning.text


def test_half_maps_gone_leaves_the_rest(processed, tmp_path, dock, wait):
    folder = tmp_path / "PostProcess/job009"
    folder.mkdir(parents=True)
    for name in ("postprocess.star", "postprocess.mrc"):
        shutil.copy(processed / "PostProcess/job004" / name, folder)
    star = folder / "postprocess.star"
    star.write_text(star.read_text().replace("Reconstruct/job003", "Reconstruct/job999"))
    dock.load(str(folder))
    wait(lambda: dock.result is not None)
    assert dock.result.sharpener is None
    assert not dock.controls.isEnabled()
    assert "Å" in dock.headline.text()


def test_what_is_no_result_is_a_card(dock, small_project, wait):
    dock.load(str(small_project.map_path.parent))
    wait(dock.card.isVisible)
    assert "postprocess.star is not there" in dock.card.text
    dock.load(str(small_project.particles_path))
    wait(lambda: "no result of Post-processing" in dock.card.text)


def test_values_go_to_a_new_job(loaded, bench, qtbot):
    loaded.controls.bfactor_box.setValue(-250)
    asked = []
    bench.fill_job.connect(lambda name, values: asked.append((name, values)))
    bench.open_dock = lambda key: None
    loaded.as_new_job()
    [(name, values)] = asked
    assert name == "postprocess"
    assert values["adhoc_bfactor_angst2"] == -250
    assert values["auto_bfactor"] is False
    assert Path(values["in_half_map"]).is_file()
    assert values["in_half_map2"] is None  # its name follows from the first's


@pytest.mark.parametrize("how", ["a slider", "chosen again"])
def test_map_that_is_worked_on_is_seen(loaded, viewer, bench, processed, wait, how):
    """Whatever has come to lie over it, or has hidden it."""
    bench.shown.add(read_layers(processed / "Reconstruct/job003/merged.mrc"))
    shown(viewer).visible = False
    before = np.array(shown(viewer).data)
    if how == "a slider":
        loaded.controls.bfactor_box.setValue(-400)
        wait(lambda: not np.array_equal(shown(viewer).data, before))
    else:
        loaded.load(str(processed / "PostProcess/job004"))
        wait(lambda: loaded.result is not None)
    kinds = [layer.metadata["napari_sta"]["kind"] for layer in viewer.layers if layer.visible]
    assert kinds == ["map", "map", "contour"]
    seen = [layer for layer in bench.ours("map") if layer.visible]
    assert seen[-1] is shown(viewer)


# -- a result that cannot be shown -------------------------------------------------------------------


def nothing_is_shown(dock) -> bool:
    lines = [*dock.fsc._lines.values(), dock.fsc._other_line, *dock.guinier.panes[0].lines]
    drawn = any(len(line.get_xdata()) for line in lines)
    marked = (
        np.isfinite(dock.fsc._at_lowpass.get_xdata()).any()
        or np.isfinite(dock.fsc._at_cursor.get_xdata()).any()
    )
    return not (drawn or marked or dock.result or dock.controls.isEnabled() or "Å" in dock.headline.text())


def test_a_failed_load_leaves_nothing_of_the_result_before(loaded, processed, tmp_path, wait):
    class Mouse:
        inaxes = loaded.fsc.panes[0]
        xdata, ydata = 1 / 20.0, 0.5

    loaded.fsc._over(Mouse())
    assert not nothing_is_shown(loaded)
    folder = tmp_path / "PostProcess/job077"
    folder.mkdir(parents=True)
    for text in (None, "data_\n\n_rlnA 1\n"):
        loaded.load(str(processed / "PostProcess/job004"))
        wait(lambda: loaded.result is not None, 30)
        if text is not None:
            (folder / "postprocess.star").write_text(text)
        loaded.load(str(folder))
        assert nothing_is_shown(loaded)  # at once, not only when it has failed
        assert "Reading PostProcess/job077" in loaded.headline.text()
        wait(loaded.card.isVisible)
        assert nothing_is_shown(loaded)
        assert "Reading" not in loaded.headline.text()
        assert "Move over the FSC" in loaded.readout.text()
        loaded.fsc._over(Mouse())
        loaded.fsc._click(Mouse())
        assert nothing_is_shown(loaded)
    loaded.chooser.setCurrentIndex(0)
    assert nothing_is_shown(loaded)


def test_a_late_result_never_replaces_a_newer_one(dock, processed, monkeypatch, wait):
    import threading

    import napari_sta.widgets.inspect_dock as module

    gate, began = threading.Event(), threading.Event()

    def slow(path, **more):
        if "job004" in str(path):
            began.set()
            gate.wait(20)
        return read_result(path, **more)

    monkeypatch.setattr(module, "read_result", slow)
    dock.load(str(processed / "PostProcess/job004"))
    wait(began.is_set)
    dock.load(str(processed / "PostProcess/job005"))
    gate.set()
    wait(lambda: dock.result is not None, 30)
    wait(lambda: dock._reading.idle)
    assert "job005" in str(dock.result.path)
    gate.clear()
    dock.compare.setCurrentIndex(dock.compare.findText("PostProcess/job004"))
    wait(lambda: not dock._comparing.idle)
    dock.compare.setCurrentIndex(0)
    gate.set()
    wait(lambda: dock._comparing.idle)
    assert dock.other is None
    assert len(dock.fsc._other_line.get_xdata()) == 0


# -- the Guinier plot --------------------------------------------------------------------------------


def guinier_star(folder: Path, lowest_angst: float = 12.0, slope: float = -60.0) -> Path:
    """Write a result whose Guinier plot falls from a huge first shell, with a line fitted to its end."""
    box, pixel = 96, 2.0
    shell = np.arange(box // 2 + 1)
    k = shell / (box * pixel)
    x = k**2
    rng = np.random.default_rng(1)
    original = -6.0 - 2.5 * np.exp(-x * 2000) + slope * x + rng.normal(scale=0.05, size=len(x))
    original[0] = -26.0
    weighted = original - 0.5 * (k / 0.15) ** 4
    weighted[40:] = -99.0
    used = (x >= lowest_angst**-2) & (weighted > -99)
    fit = np.polyfit(x[used], weighted[used], 1)
    sharpened = np.where(weighted > -99, weighted - fit[0] * x, -99.0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = "\n".join(
        f"{x[i]:.6e} {original[i]:.6f} {weighted[i]:.6f} {sharpened[i]:.6f} {fit[1]:.6f}" for i in shell
    )
    curve = "\n".join(f"{i} {k[i]:.6f} {max(1e-6, 1 - k[i] / 0.2):.6f}" for i in shell)
    path = folder / "postprocess.star"
    path.write_text(
        "data_general\n\n_rlnFinalResolution 5.0\n"
        f"_rlnBfactorUsedForSharpening {4 * fit[0]:.6f}\n_rlnFittedSlopeGuinierPlot {fit[0]:.6f}\n"
        f"_rlnFittedInterceptGuinierPlot {fit[1]:.6f}\n\ndata_fsc\n\nloop_\n_rlnSpectralIndex #1\n"
        f"_rlnResolution #2\n_rlnFourierShellCorrelationCorrected #3\n{curve}\n\n\ndata_guinier\n\nloop_\n"
        "_rlnResolutionSquared #1\n_rlnLogAmplitudesOriginal #2\n_rlnLogAmplitudesWeighted #3\n"
        f"_rlnLogAmplitudesSharpened #4\n_rlnLogAmplitudesIntercept #5\n{rows}\n\n"
    )
    return path


@pytest.mark.parametrize("lowest_angst", [10.0, 12.0, 16.0])
def test_the_guinier_plot_shows_the_fitted_line_over_its_range(dock, tmp_path, wait, lowest_angst):
    path = guinier_star(tmp_path / "PostProcess/job001", lowest_angst)
    dock.load(str(path))
    wait(lambda: dock.result is not None, 30)
    fit, axis = dock.result.fit, dock.guinier.panes[0]
    x = dock.result.guinier["x"]
    first = x[x >= 0.9999 * lowest_angst**-2][0]  # the file has seven digits
    assert fit.between == pytest.approx((first, x[39]), rel=1e-6)
    [line] = [one for one in axis.lines if "fit" in one.get_label()]
    assert f"{4 * fit.slope_angst2:.0f}".replace("-", "−") in line.get_label()
    np.testing.assert_allclose(line.get_xdata(), fit.between)
    np.testing.assert_allclose(line.get_ydata(), fit.intercept + fit.slope_angst2 * np.array(fit.between))
    assert f"{first**-0.5:.3g} to {x[39] ** -0.5:.3g} Å" in axis.get_title()
    assert "Å²" in axis.get_xlabel()
    assert axis.get_ylabel() == "ln F"


def test_the_guinier_plot_is_scaled_to_the_useful_shells_and_its_legend_is_off_them(dock, tmp_path, wait):
    dock.load(str(guinier_star(tmp_path / "PostProcess/job001")))
    wait(lambda: dock.result is not None, 30)
    dock.tabs.setCurrentIndex(1)
    dock.guinier.draw()
    axis = dock.guinier.panes[0]
    low, high = axis.get_ylim()
    useful = np.concatenate([one.get_ydata()[one.get_xdata() >= 30.0**-2] for one in axis.lines])
    assert low > -15  # not the -26 of the first shell
    assert low <= useful.min()
    assert useful.max() <= high
    assert np.ptp(useful) >= 0.5 * (high - low)
    legend = axis.get_legend().get_window_extent()
    for line in axis.lines:
        points = axis.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
        dense = np.concatenate([np.linspace(a, b, 20) for a, b in pairwise(points)])
        inside = [legend.contains(px, py) for px, py in dense]
        assert not any(inside), line.get_label()


def test_a_result_without_a_fit_has_no_line(loaded):
    assert loaded.result.fit is None  # the B-factor was given
    assert not any("fit" in str(line.get_label()) for line in loaded.guinier.panes[0].lines)
