"""Post-processing: masked FSC, B-factor sharpening, FSC weighting."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from napari_sta.data.errors import InputError
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Context, Job, Node, RunSteps, param

if TYPE_CHECKING:
    from torch import Tensor

    from napari_sta.data.volume import Volume
    from napari_sta.jobs._maps import Grid


class Postprocess(Job):
    """Measure the resolution inside a mask and sharpen the map.

    The FSC of the masked half maps is corrected for the mask by phase randomisation; their mean is divided
    by the detector's MTF, weighted by the FSC, sharpened by a B-factor (fitted or given) and low-passed.
    """

    label: ClassVar[str] = "Post-processing"
    folder: ClassVar[str] = "PostProcess"
    relion_type: ClassVar[str] = "relion.postprocess"
    order: ClassVar[int] = 90
    outputs: ClassVar[dict[str, Node]] = {
        "postprocess.star": Node("ProcessData.star.relion.postprocess", 1, "curves and numbers"),
        "postprocess.mrc": Node("DensityMap.mrc.relion.postprocess", 1, "sharpened map"),
        "postprocess_masked.mrc": Node(
            "DensityMap.mrc.relion.postprocess.masked", 1, "sharpened, masked map"
        ),
        "logfile.pdf": Node("LogFile.pdf.relion.postprocess", 1, "plots"),
    }

    in_half_map: str = param(
        title="One of the 2 half-maps", kind="file:map", relion="fn_in", flag="--i",
        help="Unfiltered half map. Its partner is found by exchanging half1 and half2 in the file name (or half_A and "
        "half_B, half_map_1 and half_map_2), or given below.",
    )  # fmt: skip
    in_half_map2: str | None = param(
        None, title="The other half-map", kind="file:map", flag="--i2",
        help="Only where its name cannot be found from the first one's.",
    )  # fmt: skip
    in_mask: str | None = param(
        None, title="Solvent mask", kind="file:mask", relion="fn_mask", flag="--mask",
        help="Soft mask around the structure, 1 inside. Empty: only the unmasked FSC.",
    )  # fmt: skip
    pixel_size_angst: float | None = param(
        None, title="Calibrated pixel size", unit="Å", relion="angpix", flag="--angpix", le=1000,
        help="Empty or negative: from the half maps' header. A mask on their grid follows it.",
    )  # fmt: skip
    auto_bfactor: bool = param(
        True, title="Estimate B-factor automatically?", tab="Sharpen", relion="do_auto_bfac", flag="--auto_bfac",
        help="Fit the Guinier plot, unless a B-factor is given below.",
    )  # fmt: skip
    auto_bfactor_lowest_resolution_angst: float = param(
        10.0, title="Lowest resolution for auto-B fit", unit="Å", tab="Sharpen", relion="autob_lowres",
        flag="--autob_lowres", gt=0, le=1e4, help="Shells finer than this are fitted.",
    )  # fmt: skip
    adhoc_bfactor_angst2: float | None = param(
        None, title="Use your own B-factor", unit="Å²", tab="Sharpen", relion="adhoc_bfac", flag="--adhoc_bfac",
        ge=-1e5, le=1e5, help="Negative sharpens; takes the place of the fit. Empty: none.",
    )  # fmt: skip
    mtf_file: str | None = param(
        None, title="MTF of the detector", tab="Sharpen", kind="file:star", relion="fn_mtf", flag="--mtf",
        help="STAR file with the detector's MTF; amplitudes are divided by it.",
    )  # fmt: skip
    mtf_pixel_size_angst: float = param(
        1.0, title="Original detector pixel size", unit="Å", tab="Sharpen", relion="mtf_angpix",
        flag="--mtf_angpix", ge=0.01, le=1000, help="Pixel size the MTF's frequencies refer to.",
    )  # fmt: skip
    skip_fsc_weighting: bool = param(
        False, title="Skip FSC-weighting?", tab="Filter", relion="do_skip_fsc_weighting",
        flag="--skip_fsc_weighting", help="Yes: do not weigh amplitudes by the FSC; give a low-pass then.",
    )  # fmt: skip
    lowpass_angst: float | None = param(
        None, title="Ad-hoc low-pass filter", unit="Å", tab="Filter", flag="--low_pass",
        le=1e4, help="Low-pass the sharpened map here. Negative: at the resolution found. Empty or 0: none.",
    )  # fmt: skip
    randomise_at_fsc: float = param(
        0.8, title="Randomise phases from FSC", tab="Filter", flag="--randomize_at_fsc", gt=0, lt=1, advanced=True,
        help="Phases are randomised from the shell where the unmasked FSC falls below this.",
    )  # fmt: skip
    force_mask: bool = param(
        False, title="Use the mask even if it does not help", tab="Filter", flag="--force_mask", advanced=True,
        help="No: where the unmasked FSC reaches further than the corrected one, it is used instead.",
    )  # fmt: skip
    clamp_mask: bool = param(
        False, title="Clamp mask to 0..1", tab="I/O", advanced=True,
        help="Yes: cut off mask values below 0 and above 1 instead of refusing them.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _own_bfactor_replaces_the_fit(cls, values: Any) -> Any:
        if isinstance(values, dict) and str(values.get("adhoc_bfactor_angst2") or "").strip():
            return {**values, "auto_bfactor": False}
        return values

    def relion_switches(self) -> dict[str, str]:
        """Return the switch before RELION's own B-factor, and the low-pass that it ties to another."""
        own = self.adhoc_bfactor_angst2 is not None
        return {"do_adhoc_bfac": "Yes" if own else "No", "low_pass": f"{self.lowpass_angst or 5:g}"}

    @classmethod
    def switched_on(cls, options: Mapping[str, str]) -> dict[str, str]:
        """Drop RELION's own B-factor and low-pass where its switches are off; take its ``--i2``."""
        kept = dict(options)
        kept["other_args"] = re.sub(r"(^|\s)--i2\s", r"\1--in_half_map2 ", kept.get("other_args", ""))
        if kept.get("do_adhoc_bfac", "Yes") != "Yes":
            kept.pop("adhoc_bfac", None)
        if kept.get("do_skip_fsc_weighting") == "Yes" and kept.get("low_pass"):
            given = kept.get("other_args", "")
            kept["other_args"] = f"--lowpass_angst {kept['low_pass']} {given}"
        return kept

    def check(self) -> None:
        """Read both halves, the mask and the MTF."""
        from napari_sta.io.postprocess import read_mtf
        from napari_sta.jobs._filter_limits import check_bfactor, check_lowpass

        first, _, _ = self._read()
        check_bfactor("adhoc_bfactor_angst2", self.adhoc_bfactor_angst2, first.pixel_size_angst)
        check_lowpass(self.lowpass_angst, first.box_px * first.pixel_size_angst)
        if self.mtf_file:
            read_mtf(self.mtf_file)

    @property
    def _clamp(self) -> float:
        from napari_sta.jobs._masks import CLAMP_ANY

        return CLAMP_ANY if self.clamp_mask else 0.0

    def warnings(self) -> list[str]:
        """Say what is assumed of half maps and mask, and what is done to them."""
        from napari_sta.jobs._masks import mask_warnings

        grid, said = self._grid(*self._paths())
        if self.in_mask:
            said += mask_warnings(self.in_mask, grid, self._clamp)
        return said

    def _paths(self) -> tuple[str, str]:
        """Return the half maps, first half first: as named, or as given where both are."""
        from napari_sta.jobs._halves import other_half

        if self.in_half_map2:
            return self.in_half_map, self.in_half_map2
        first, second = sorted(
            [self.in_half_map, other_half(self.in_half_map, "give the second one with --in_half_map2")]
        )
        return first, second

    def _grid(self, *paths: str) -> tuple[Grid, list[str]]:
        """Hold the half maps' headers against each other; also return what is assumed."""
        from napari_sta.io.mrc import read_header
        from napari_sta.jobs._halves import agreed_pixel_size
        from napari_sta.jobs._maps import Grid, say_order

        given = self.pixel_size_angst if self.pixel_size_angst and self.pixel_size_angst > 0 else None
        said: list[str] = []
        stated = agreed_pixel_size(paths, said, "in_half_map", given=given, cure="give --pixel_size_angst")
        for path in paths:
            say_order(read_header(path), said)
        header = read_header(paths[0])
        pixel = given or stated
        if pixel is None:
            raise InputError(f"{paths[0]} {header.why_no_pixel_size}; give --pixel_size_angst")
        return Grid(header.shape_zyx[0], pixel, header_angst=stated), said

    def _read(self) -> tuple[Volume, Volume, Volume | None]:
        """Read the half maps, first half first, and the mask."""
        from napari_sta.jobs._maps import read_map
        from napari_sta.jobs._masks import read_mask

        paths = self._paths()
        grid, _ = self._grid(*paths)
        first, second = (read_map(path, grid.pixel_size_angst, "in_half_map") for path in paths)
        if (first.data == second.data).all():
            raise InputError(
                f"{paths[0]} and {paths[1]} hold the same map; two independent halves are needed"
            )
        if not self.in_mask:
            return first, second, None
        mask = read_mask(self.in_mask, grid, self._clamp)
        if mask.data.max() <= 0.5:
            raise InputError(
                f"{self.in_mask} is nowhere above {mask.data.max():.3g}; a mask is 1 inside, make it again"
            )
        for half in (first, second):
            if not (half.data * mask.data).any():
                raise InputError(
                    f"{half.path} holds nothing within {self.in_mask}; take a mask that lies on it"
                )
        return first, second, mask

    def run(self, context: Context) -> RunSteps:
        """Compute curves, sharpen, write maps, STAR file and plots."""
        import numpy as np
        import torch

        from napari_sta.io import mrc
        from napari_sta.io.postprocess import read_mtf, write_fsc_xml, write_postprocess_star
        from napari_sta.kernels import filters, fourier, fsc
        from napari_sta.kernels.shells import resolution_angst

        first, second, mask = self._read()
        pixel, box = first.pixel_size_angst, first.box_px
        half1, half2 = (torch.from_numpy(v.data).to(torch.float64) for v in (first, second))
        yield Progress(1, 5, "maps read")

        general: dict[str, Any] = {}
        curves: dict[str, Tensor] = {}
        if mask is None:
            true_fsc = fsc.fourier_shell_correlation(half1, half2)
            true_fsc[0] = torch.where(true_fsc[0] <= 0, 1.0, true_fsc[0])
            curves["unmasked"] = true_fsc
        else:
            try:
                found = fsc.masked_fsc(half1, half2, torch.from_numpy(mask.data), self.randomise_at_fsc)
            except ValueError as error:
                raise InputError(
                    f"{self.in_half_map}: {error}, so phases cannot be randomised; the half maps are not "
                    "independent, or are filtered"
                ) from error
            true_fsc = found.corrected
            n_inside = float((mask.data > 0.5).mean())
            fraction = 0.476 / n_inside  # protein is taken to fill 47.6 % of the mask (cisTEM)
            unmasked = found.unmasked
            curves |= {
                "corrected": true_fsc,
                "mask_fraction": fraction * unmasked / (1 + (fraction - 1) * unmasked),
                "unmasked": unmasked,
                "masked": found.masked,
                "randomised": found.randomised,
            }
            randomised_from = box * pixel / found.randomised_from
            general |= {"randomised_from_angst": randomised_from, "mask_fraction": fraction}
            true_fsc = self._choose(curves, found.randomised, box, pixel, context)
            curves["corrected"] = true_fsc
        resolution = resolution_angst(true_fsc, box, pixel)
        if not np.isfinite(resolution):
            raise InputError(
                f"{first.path} and {second.path} have nothing in common: their FSC is below 0.143 from the first shell "
                "on; take the two halves of one reconstruction, and a mask that lies on the structure"
            )
        yield Progress(2, 5, f"resolution {resolution:.2f} Å")

        size = (box,) * 3
        spectrum = torch.fft.rfftn((half1 + half2) / 2)
        plots = {"original": filters.guinier(spectrum, box, pixel)}
        radius = fourier.radius_px(size)
        if self.mtf_file:
            rho, mtf = read_mtf(self.mtf_file)
            k = radius / (box * pixel)
            inside = k < 0.5 / pixel
            value = filters.mtf_of_radius(rho, mtf, self.mtf_pixel_size_angst, k)
            spectrum = torch.where(inside, spectrum / value, spectrum)
            plots["mtf"] = filters.guinier(spectrum, box, pixel)
        if not self.skip_fsc_weighting:
            shells = fourier.shell_index(size)
            weight = filters.fsc_weight(true_fsc)
            weight = torch.cat([weight, torch.zeros(1, dtype=weight.dtype)])
            spectrum = spectrum * weight[shells.clamp(max=len(weight) - 1)]
            plots["weighted"] = filters.guinier(spectrum, box, pixel)
        last = list(plots.values())[-1]
        bfactor, fit = 0.0, None
        if self.adhoc_bfactor_angst2 is not None:
            bfactor = self.adhoc_bfactor_angst2
        elif self.auto_bfactor:
            try:
                fit = filters.fit_line(last, self.auto_bfactor_lowest_resolution_angst)
            except ValueError as error:
                context.log.warning(
                    "the map is not sharpened, because no B-factor can be fitted: %s; raise "
                    "--auto_bfactor_lowest_resolution_angst (%g) or give --adhoc_bfactor_angst2", error,
                    self.auto_bfactor_lowest_resolution_angst,
                )  # fmt: skip
            else:
                bfactor = 4 * fit.slope
                general |= {"slope": fit.slope, "intercept": fit.intercept, "correlation": fit.correlation}
        if abs(bfactor) > 0:
            spectrum = spectrum * filters.bfactor_factor(box, pixel, bfactor)
            plots["sharpened"] = filters.guinier(spectrum, box, pixel)
        lowpass = resolution if self.lowpass_angst and self.lowpass_angst < 0 else self.lowpass_angst
        if lowpass and np.isfinite(lowpass):
            spectrum = spectrum * filters.lowpass_factor(box, pixel, lowpass)
        sharpened = torch.fft.irfftn(spectrum, s=size).to(torch.float32).numpy()
        yield Progress(3, 5, f"sharpened with B = {bfactor:.0f} Å²")

        from napari_sta.data.volume import Volume
        from napari_sta.io.files import path_for

        out = context.out
        mrc.write_volume(out / "postprocess.mrc", Volume(sharpened, pixel))
        star = out / "postprocess.star"
        names: dict[str, str] = {
            "half1": path_for(first.path, star),
            "half2": path_for(second.path, star),
            "map": path_for(out / "postprocess.mrc", star),
        }
        if mask is not None:
            mrc.write_volume(out / "postprocess_masked.mrc", Volume(sharpened * mask.data, pixel))
            names |= {
                "mask": path_for(mask.path, star), "masked_map": path_for(out / "postprocess_masked.mrc", star)
            }  # fmt: skip
        as_arrays = {key: value.numpy() for key, value in curves.items()}
        amplitudes = {key: plot.log_amplitude.numpy() for key, plot in plots.items()}
        if fit is not None:
            amplitudes["intercept"] = np.full(box // 2 + 1, fit.intercept)
        first_keys = {"resolution_angst": resolution, "bfactor_angst2": bfactor}
        inverse_square = last.inverse_square_angst2.numpy()
        write_postprocess_star(
            star, {**first_keys, **names, **general}, box, pixel, as_arrays, inverse_square, amplitudes
        )
        title = "napari-sta masked-corrected FSC" if mask is not None else "napari-sta unmasked FSC"
        write_fsc_xml(out / "postprocess_fsc.xml", title, true_fsc.numpy(), box * pixel)
        yield Progress(4, 5, "maps written")
        from napari_sta.jobs._plots import plot_postprocess

        fit_range = (fit.slope, fit.intercept, self.auto_bfactor_lowest_resolution_angst) if fit else None
        plot_postprocess(
            out, box * pixel, as_arrays, inverse_square, amplitudes, resolution, bfactor, fit_range
        )
        yield Progress(5, 5, "plots written")
        return {
            "resolution_angst": round(resolution, 3),
            "bfactor_angst2": round(bfactor, 2),
            "pixel_size_angst": round(pixel, 6),
            "box_size_px": box,
            "nyquist_angst": round(2 * pixel, 4),
            "summary": f"Resolution {resolution:.2f} Å at FSC 0.143; B-factor {bfactor:.0f} Å²; Nyquist "
            f"{2 * pixel:.2f} Å.",
        }

    def _choose(
        self, curves: dict[str, Tensor], randomised: Tensor, box: int, pixel: float, context: Context
    ) -> Tensor:
        """Use the unmasked FSC where it reaches further, as RELION does, and say so."""
        from napari_sta.kernels.shells import resolution_angst

        corrected, unmasked = curves["corrected"], curves["unmasked"]
        with_mask = resolution_angst(corrected, box, pixel)
        without = resolution_angst(unmasked, box, pixel)
        if without < with_mask and not self.force_mask:
            context.log.warning(
                "the mask was ignored: without it the FSC reaches %.2f Å, with it %.2f Å. Usually the mask is too "
                "tight or off-centre; see Align & recentre, or --force_mask Yes", without, with_mask,
            )  # fmt: skip
            return unmasked.clone()
        shell = round(box * pixel / with_mask) if with_mask not in (float("inf"), 999.0) else 0
        if shell and float(randomised[shell]) > 0.1:
            context.log.warning(
                "the phase-randomised FSC is still %.2f at the resolution: the mask is too tight or its edge too "
                "hard; soften it", float(randomised[shell]),
            )  # fmt: skip
        return corrected

    def relion_command(self, out: str) -> str | None:
        """Return the ``relion_postprocess`` line."""
        words = [f"relion_postprocess --i {self.in_half_map} --o {out}postprocess"]
        if self.in_half_map2:
            words.append(f"--i2 {self.in_half_map2}")
        if self.in_mask:
            words.append(f"--mask {self.in_mask}")
        words.append(f"--angpix {self.pixel_size_angst or -1:g}")
        if self.adhoc_bfactor_angst2 is not None:
            words.append(f"--adhoc_bfac {self.adhoc_bfactor_angst2:g}")
        elif self.auto_bfactor:
            words.append(f"--auto_bfac --autob_lowres {self.auto_bfactor_lowest_resolution_angst:g}")
        if self.mtf_file:
            words.append(f"--mtf {self.mtf_file} --mtf_angpix {self.mtf_pixel_size_angst:g}")
        if self.skip_fsc_weighting:
            words.append("--skip_fsc_weighting")
        if self.lowpass_angst:
            words.append(f"--low_pass {self.lowpass_angst:g}")
        if self.force_mask:
            words.append("--force_mask")
        return " ".join(words)
