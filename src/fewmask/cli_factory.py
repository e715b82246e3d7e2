"""``fewmask factory``: a generator, masks on few images, and data sets from both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from fewmask.cli_engine import EngineFlags
from fewmask.cli_pipelines import SETTINGS, run_pipeline
from fewmask.config import optional_fields
from fewmask.errors import UsageError, shell_command
from fewmask.pipelines import factory_config

Out = Annotated[Path | None, Parameter(name=["--out", "-o"])]
NewFolder = Annotated[Path, Parameter(name=["--out", "-o"])]
Count = Annotated[int, Parameter(name=["--count", "-n"])]
FactoryFlags: Any = optional_fields(factory_config.FactoryConfig)
LabelFlags: Any = optional_fields(
    factory_config.LabelConfig, "route", "masks", "generator_weights", "encoder"
)
JudgeFlags: Any = optional_fields(factory_config.JudgeConfig, "interpreter_weights")
Flat = Parameter(name="*", group=SETTINGS)

app = App(
    name="factory",
    help="A labelled-data factory from about thirty masks: train, label, sample.",
    help_format="plaintext",
    default_parameter=Parameter(consume_multiple=True),
)


@app.command
def train(
    images: Path,
    /,
    *,
    out: Out = None,
    preset: str = "fast",
    config: Path | None = None,
    dry_run: bool = False,
    settings: Annotated[FactoryFlags, Flat] = None,
) -> None:
    """Images in, a generator of such images out. No mask is looked at.

    Args:
        images: A folder of images; masks/ in it are left for `label` and `judge`.
        out: A new folder for the run; default runs/<images>-factory.
        preset: smoke (seconds), fast (a CPU), paper (as published).
        config: YAML file of settings; flags win over it.
        dry_run: Print what would be done, and stop.
        settings: Of the pipeline.
    """
    run_pipeline("factory", factory_config.FactoryConfig, factory_config.PRESETS, images, out, preset, config, dry_run, settings)  # fmt: skip  # noqa: E501


@app.command(name="export-seeds")
def export_seeds(
    run: Path,
    /,
    *,
    out: NewFolder,
    count: Count = 30,
    truncation_psi: float = 0.7,
    device: str = "auto",
) -> None:
    """Generated images to draw masks on, with any tool; masks come back by file name.

    Args:
        run: A finished run of `fewmask factory train`.
        out: New or empty folder.
        count: How many.
        truncation_psi: 1: as varied as the generator can; 0: all the same.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from fewmask.cli import tell_next
    from fewmask.factory_runs import export_seeds as export
    from fewmask.training.run_folder import RunFolder
    from fewmask.training.signals import stop_on_signals

    with stop_on_signals():
        written = export(
            RunFolder.open(run), out, count, truncation_psi=truncation_psi, device=device
        )
    masks = out / "masks"
    print(f"{len(written)} images to draw on in {out / 'images'}; put the masks, of the same names,"
          f" into {masks}")  # fmt: skip
    tell_next(shell_command("factory", "label", run, "--generated", "--masks", masks), own="masks")


@app.command
def label(
    run: Path,
    /,
    *,
    masks: Path,
    generated: Annotated[bool, Parameter(negative="")] = False,
    invert: Annotated[bool, Parameter(negative="")] = False,
    encoder_features: Annotated[bool, Parameter(name="--encoder", negative="")] = False,
    out: Out = None,
    preset: str = "fast",
    config: Path | None = None,
    settings: Annotated[LabelFlags, Flat] = None,
) -> None:
    """Few masks in, an interpreter of features out.

    Args:
        run: A finished run of `fewmask factory train`; with --encoder, a folder of images will do.
        masks: Folder of masks with the names of their images; 255 where nothing is said.
        generated: They are of exported generated images (the default).
        invert: They are of real images of the run, which the generator is made to repeat.
        encoder_features: They are of real images, whose features a frozen ImageNet encoder gives.
        out: A new folder; default RUN/labelled-<route>.
        preset: Of the settings, where `run` is a folder of images; a run has its own.
        config: YAML file of settings; flags win over it.
        settings: Go before those of the run.
    """
    from fewmask.cli import finished
    from fewmask.factory_runs import label as label_run

    routes = {"generated": generated, "invert": invert, "encoder": encoder_features}
    asked: list[Any] = [route for route, wanted in routes.items() if wanted]
    if len(asked) > 1:
        raise UsageError.of(
            "ROUTE",
            where="fewmask factory label",
            found=", ".join(f"--{route}" for route in asked),
            expected="one of them",
            fix="label once for each",
        )
    route: Any = asked[0] if asked else "generated"
    given = settings.model_dump(exclude_none=True) if settings else {}
    made = label_run(run, masks, route, out=out, preset=preset, config=config, settings=given)
    finished(made.path)


@app.command
def sample(
    run: Path,
    /,
    *,
    out: NewFolder,
    count: Count = 1500,
    truncation_psi: float = 0.7,
    drop: float = 0.1,
    seed: int | None = None,
    device: str = "auto",
    where: Annotated[EngineFlags, Parameter(name="*")] = EngineFlags(),  # noqa: B008 - frozen
) -> None:
    """Synthetic images with masks, and a manifest of where each comes from.

    Args:
        run: A finished run of `fewmask factory label`, or the generator's with one such in it.
        out: New or empty folder.
        count: Pairs to write.
        truncation_psi: 1: as varied as the generator can; 0: all the same.
        drop: Share of images that is left out: those on which the classifiers disagree most.
        seed: Of the codes; default the run's.
        device: auto, cpu, cuda, cuda:1, mps.
        where: The images are generated and labelled.
    """
    from fewmask.cli import tell_next
    from fewmask.sampling import sample as sample_run
    from fewmask.training.run_folder import RunFolder
    from fewmask.training.signals import stop_on_signals

    with stop_on_signals():
        made = sample_run(
            RunFolder.open(run), out, count,
            truncation_psi=truncation_psi, drop=drop, seed=seed, device=device,
            engine=where.chosen(),
        )  # fmt: skip
    print(f"{out}: {made}")
    tell_next(shell_command("train", out, "-o", f"{out}-train"))


@app.command
def judge(
    run: Path,
    data: Path,
    /,
    *,
    out: Out = None,
    preset: str = "fast",
    config: Path | None = None,
    settings: Annotated[JudgeFlags, Flat] = None,
) -> None:
    """Synthetic against real: does the factory pay for its labels?

    Args:
        run: A finished run of `fewmask factory label`, or the generator's with one such in it.
        data: Real images with masks; of the factory's own folder, its test part is measured.
        out: A new folder for the run; default runs/<data>-judge.
        preset: smoke (seconds), fast (a CPU), paper (as published).
        config: YAML file of settings; flags win over it.
        settings: Of the segmenters, all trained alike.
    """
    from fewmask.cli import finished
    from fewmask.factory_runs import judge as judge_run
    from fewmask.training.run_folder import RunFolder

    given = settings.model_dump(exclude_none=True) if settings else {}
    opened = RunFolder.open(run)
    finished(judge_run(opened, data, out=out, preset=preset, config=config, settings=given).path)
