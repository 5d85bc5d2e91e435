# SPDX-License-Identifier: Apache-2.0
"""`intarsia generate panorama360`: a picture all around, above and below."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.cli.model_file import ModelFile, bundled
from intarsia.cli.screen import Debug, Problem, Quiet, show_path
from intarsia.cli.settings import DEFAULT_STYLES, PRECISIONS, SOLVERS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SphereSettings", "panorama360"]

_COMMAND = "generate panorama360"
_METHODS = ("upright", "bethe")
_MAX_FACE, _MAX_HEIGHT = 2048, 4096


@dataclass(frozen=True)
class SphereSettings:
    """What decides the pixels of a sphere. The defaults are those of the command.

    Attributes:
        height: of the picture, which is twice as wide.
        face: pixels along an edge of the six faces that are painted.
        style: name of a style; empty takes the first of the model's default styles.
        method: `upright` blends regions in which up is up; `bethe` adds the three rings of DiffCollage.
        steps: of the solver.
        solver: one of `SOLVERS`.
        seed: of the noise.
        model: name of a bundled model, or a file.
        precision: the network's floating type; `auto` takes what is fast on the device.
        device: `auto`, `cpu`, `cuda`, `cuda:1` ...
        max_batch: regions that go through the network at once.
    """

    height: int = 512
    face: int = 128
    style: str = ""
    method: str = "upright"
    steps: int = 32
    solver: str = "dpmpp2m"
    seed: int = 0
    model: str = "landscapes"
    precision: str = "auto"
    device: str = "auto"
    max_batch: int = 16

    def check(self, file: ModelFile) -> int:
        """Refuse what cannot be right; returns the edge of the regions."""

        def refuse(option: str, requirement: str, got: object, remedy: str) -> Problem:
            return Problem(f"{_COMMAND}: --{option} must {requirement}, got {got}. {remedy}")

        sizes = [h for h, w in file.sizes if h == w and h % 2 == 0]
        if self.method == "bethe":
            halves = {(h, w) for h, w in file.sizes}
            sizes = [h for h in sizes if {(h, h // 2), (h // 2, h), (h // 2, h // 2)} <= halves]
        for name, legal in (("method", _METHODS), ("solver", SOLVERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in legal:
                raise refuse(name, f"be one of {', '.join(legal)}", repr(getattr(self, name)), "Choose one.")
        if not sizes:
            raise refuse(
                "model", f"know square patches and their halves for {self.method}", self.model, "Train one."
            )
        patch = max(sizes)
        for name, low in (("height", 2), ("steps", 1), ("max_batch", 1), ("seed", 0)):
            if getattr(self, name) < low:
                option = name.replace("_", "-")
                raise refuse(option, f"be at least {low}", getattr(self, name), "Leave it out.")
        if self.height > _MAX_HEIGHT:
            raise refuse("height", f"be at most {_MAX_HEIGHT}", self.height, "Make it smaller.")
        if self.seed >= 2**63:
            raise refuse("seed", "be below 2**63", self.seed, "Take a smaller number.")
        if not patch <= self.face <= _MAX_FACE or self.face % (patch // 2):
            requirement = f"be a multiple of {patch // 2} from {patch} to {_MAX_FACE}"
            raise refuse("face", requirement, self.face, f"Use {2 * patch}.")
        if self.style and self.style not in file.styles:
            near = get_close_matches(self.style, file.styles, 1)
            remedy = f"Did you mean {near[0]}?" if near else "Give one."
            raise refuse("style", f"be one of {', '.join(file.styles) or 'none'}", repr(self.style), remedy)
        return patch

    def command(self) -> str:
        """The command line that makes this picture."""
        words = ["intarsia", "generate", "panorama360", "-o", "sphere.png"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words += ["--" + field.name.replace("_", "-"), str(value)]
        return shlex.join(words)


_DEFAULT = SphereSettings()


def _option(flag: str, metavar: str, panel: str, help: str) -> Any:
    default = getattr(_DEFAULT, flag.removeprefix("--").replace("-", "_")) or "the model's first"
    return typer.Option(
        flag,
        metavar=metavar,
        help=f"{help} [dim](default {default})[/dim]",
        rich_help_panel=panel,
        show_default=False,
    )


_Output = typer.Option("--output", "-o", metavar="FILE.png", help="The picture; replaced if it exists.")
_Json = typer.Option("--json", metavar="", help="Print the result as one line of JSON.")
_Height = _option("--height", "PIXELS", "Canvas", "Of the picture, which is twice as wide.")
_Face = _option("--face", "PIXELS", "Canvas", "Edge of the six faces that are painted.")
_Style = _option("--style", "NAME", "Content", "What is seen.")
_Seed = typer.Option(
    "--seed",
    metavar="N",
    help="Another number, another picture. [dim](default 0)[/dim]",
    rich_help_panel="Content",
    show_default=False,
)
_Method = _option(
    "--method",
    "NAME",
    "Method",
    "upright, for scenes with a sky, or bethe (DiffCollage), for styles without an up, such as galaxies.",
)
_Solver = _option("--solver", "NAME", "Method", f"{', '.join(SOLVERS)}.")
_Steps = _option("--steps", "N", "Method", "More is finer and slower.")
_Model = _option(
    "--model", "NAME|FILE", "Machine", f"Bundled ({', '.join(bundled()) or 'none'}) or a file of yours."
)
_Device = _option("--device", "NAME", "Machine", "auto, cpu, cuda, cuda:1 and so on.")
_MaxBatch = _option("--max-batch", "N", "Machine", "Regions in the network at once.")
_Precision = _option("--precision", "NAME", "Machine", f"{', '.join(PRECISIONS)}.")


def panorama360(
    output: Annotated[Path, _Output],
    height: Annotated[int, _Height] = _DEFAULT.height,
    face: Annotated[int, _Face] = _DEFAULT.face,
    style: Annotated[str, _Style] = _DEFAULT.style,
    seed: Annotated[int, _Seed] = _DEFAULT.seed,
    method: Annotated[str, _Method] = _DEFAULT.method,
    solver: Annotated[str, _Solver] = _DEFAULT.solver,
    steps: Annotated[int, _Steps] = _DEFAULT.steps,
    model: Annotated[str, _Model] = _DEFAULT.model,
    device: Annotated[str, _Device] = _DEFAULT.device,
    max_batch: Annotated[int, _MaxBatch] = _DEFAULT.max_batch,
    precision: Annotated[str, _Precision] = _DEFAULT.precision,
    as_json: Annotated[bool, _Json] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a whole sphere: all around, above and below.

    The PNG is longitude by latitude, and says so in its metadata: viewers of 360 degree pictures open it.
    """
    began = time.monotonic()
    settings = SphereSettings(
        height, face, style, method, steps, solver, seed, model, precision, device, max_batch
    )
    file = ModelFile.open(settings.model, command=_COMMAND)
    if not style and file.styles:
        first = DEFAULT_STYLES.get(model, file.styles)[0]
        settings = dataclasses.replace(settings, style=first)
    patch = settings.check(file)
    from intarsia.cli import job
    from intarsia.media import write_panorama

    job.check_output(output, command=_COMMAND)
    picture, settings, where = _paint(settings, file, patch, quiet=quiet or as_json)
    facts = job.facts_of(settings, file, where, settings.command())
    write_panorama(picture, output, text=job.text_of(facts))
    seconds = time.monotonic() - began
    if as_json:
        about = {"path": show_path(output), "seconds": round(seconds, 2), **facts}
        typer.echo(json.dumps(about, ensure_ascii=True))
    elif not quiet:
        size = f"{picture.shape[2]} x {picture.shape[1]}"
        typer.echo(f"{show_path(output)}: {size} pixels in {seconds:.1f} s, seed {settings.seed}")


def _paint(
    settings: SphereSettings, file: ModelFile, patch: int, *, quiet: bool
) -> tuple[Tensor, SphereSettings, Any]:
    import torch

    from intarsia import models, samplers, schedules
    from intarsia.cli import globe, job
    from intarsia.cli.picture import find_solver
    from intarsia.media import cubemap_to_equirect

    device = job.find_device(settings.device, command=_COMMAND)
    dtype = None if settings.precision == "auto" else getattr(torch, settings.precision)
    denoiser = models.load(str(file.path), device=device, dtype=dtype)
    settings = dataclasses.replace(settings, precision=str(denoiser.compute_dtype).removeprefix("torch."))
    style = denoiser.styles[settings.style] if settings.style else 0
    if settings.method == "bethe":
        composite = globe.cube(denoiser, settings.face, patch, style, settings.max_batch)
    else:
        regions = globe.upright(settings.face, patch)
        composite = globe.blended(denoiser, regions, style, settings.max_batch)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(1, 3, 6, settings.face, settings.face, generator=generator)
    sigmas = schedules.karras(settings.steps, denoiser.sigma_min, denoiser.sigma_max)
    what = f"painting {2 * settings.height} x {settings.height}"
    with job.progress(settings.steps, what, quiet=quiet) as bar:

        def tick(step: int, state: object, info: object) -> None:
            bar.update()

        faces = samplers.sample(
            composite,
            noise.to(device) * sigmas[0],
            sigmas,
            find_solver(settings.solver),
            generator=generator,
            callback=tick,
            progress=False,
        )
    size = (settings.height, 2 * settings.height)
    sampling = "area" if settings.height < 2 * settings.face else "bilinear"
    picture = cubemap_to_equirect(faces[0].float().cpu().clamp(-1, 1), size, sampling=sampling)
    return picture, settings, device
