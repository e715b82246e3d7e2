"""The same verbs as the command line, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewmask import factory_runs, sampling
from fewmask.config import resolve
from fewmask.pipelines.factory_config import Route
from fewmask.pipelines.running import pipeline_of, resume, start
from fewmask.predict import evaluate, predict
from fewmask.report.assemble import read_summary
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import free_path
from fewmask.translate import translate


class Run:
    """A run; of one that is not finished, scores and predictions are refused.

    Args:
        path: Its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder.open(Path(path))

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores of the result on the held-out images, by the names of ``docs/metrics.md``."""
        return dict(self.table["metrics"])

    @property
    def table(self) -> dict[str, Any]:
        """All of ``metrics.json``: the rows with controls and references, minutes, memory.

        Raises:
            UsageError: the run is not finished.
            CheckpointError: the file is damaged.
        """
        return read_summary(self.path)

    @property
    def report(self) -> Path:
        """``report.html``."""
        return self.path / "report.html"

    def predict(self, images: str | Path, out: str | Path, **options: Any) -> list[Path]:
        """Masks of other images, scenes or volumes; see :func:`fewmask.predict.predict`."""
        return predict(self.folder, Path(images), Path(out), **options)

    def translate(self, images: str | Path, out: str | Path, **options: Any) -> list[Path]:
        """Images in the light of the other domain; see :func:`fewmask.translate.translate`."""
        return translate(self.folder, Path(images), Path(out), **options)

    def evaluate(self, data: str | Path, *, device: str = "auto") -> dict[str, Any]:
        """Scores on other images with masks; see :func:`fewmask.predict.evaluate`."""
        return evaluate(self.folder, Path(data), device=device)

    def export_seeds(self, out: str | Path, count: int = 30, **options: Any) -> list[Path]:
        """Generated images to draw masks on; see :func:`fewmask.factory_runs.export_seeds`."""
        return factory_runs.export_seeds(self.folder, Path(out), count, **options)

    def label(
        self, masks: str | Path, route: Route = "generated", out: str | Path | None = None,
        **settings: Any,
    ) -> Run:  # fmt: skip
        """An interpreter taught with few masks; see :func:`fewmask.factory_runs.label`."""
        path = Path(out) if out else None
        return Run(
            factory_runs.label(self.path, Path(masks), route, out=path, settings=settings).path
        )

    def sample(self, out: str | Path, count: int = 1500, **options: Any) -> sampling.Made:
        """Synthetic images with masks; see :func:`fewmask.sampling.sample`."""
        return sampling.sample(self.folder, Path(out), count, **options)

    def judge(
        self, data: str | Path, out: str | Path | None = None, *, preset: str = "fast",
        **settings: Any,
    ) -> Run:  # fmt: skip
        """Synthetic against real images; see :func:`fewmask.factory_runs.judge`."""
        path = Path(out) if out else None
        return Run(
            factory_runs.judge(
                self.folder, Path(data), out=path, preset=preset, settings=settings
            ).path
        )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def tags(
    data: str | Path,
    out: str | Path | None = None,
    *,
    preset: str = "fast",
    config: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Masks and a segmenter from image-level tags.

    Args:
        data: ``positive/`` and ``negative/`` (any class-named folders), or ``images/`` and
            ``tags.csv``; ``masks/`` are used for measuring only.
        out: A new folder; default ``runs/<data>-tags``, numbered if taken.
        preset: smoke, fast, paper or best.
        config: YAML file of settings.
        **settings: See ``fewmask tags --help``.

    Raises:
        FewmaskError: see :mod:`fewmask.errors`.
    """
    return _start("tags", data, out, preset, config, settings)


def adapt(
    source: str | Path,
    target: str | Path,
    out: str | Path | None = None,
    *,
    test: str | Path | None = None,
    preset: str = "fast",
    config: str | Path | None = None,
    **settings: Any,
) -> Run:
    """A segmenter for the target domain from labelled source and unlabelled target images.

    Args:
        source: ``images/`` and ``masks/``, or the layout of CamVid or Cityscapes.
        target: Folder of images; masks in it measure only, and train the oracle.
        out: A new folder; default ``runs/<source>-adapt``, numbered if taken.
        test: Folder of labelled images of the target domain, to measure on.
        preset: smoke, fast, paper or best.
        config: YAML file of settings.
        **settings: See ``fewmask adapt --help``.

    Raises:
        FewmaskError: see :mod:`fewmask.errors`.
    """
    given = {**settings, "target": target, "test": test}
    return _start("adapt", source, out, preset, config, given)


def factory(
    images: str | Path,
    out: str | Path | None = None,
    *,
    preset: str = "fast",
    config: str | Path | None = None,
    **settings: Any,
) -> Run:
    """A generator of images; go on with the run's ``label``, ``sample`` and ``judge``.

    Args:
        images: Folder of images; masks in it are not looked at.
        out: A new folder; default ``runs/<images>-factory``, numbered if taken.
        preset: smoke, fast or paper.
        config: YAML file of settings.
        **settings: See ``fewmask factory train --help``.

    Raises:
        FewmaskError: see :mod:`fewmask.errors`.
    """
    return _start("factory", images, out, preset, config, settings)


def saliency(
    data: str | Path,
    out: str | Path | None = None,
    *,
    preset: str = "fast",
    config: str | Path | None = None,
    **settings: Any,
) -> Run:
    """A segmenter from few masks and saliency maps; arguments as for :func:`tags`."""
    return _start("saliency", data, out, preset, config, settings)


def train(
    data: str | Path,
    out: str | Path | None = None,
    *,
    preset: str = "fast",
    config: str | Path | None = None,
    **settings: Any,
) -> Run:
    """A plain supervised segmenter from images and masks; arguments as for :func:`tags`."""
    return _start("train", data, out, preset, config, settings)


def resume_run(run: str | Path, *, data: str | Path | None = None, **folders: str | Path) -> Run:
    """Go on with an interrupted run.

    Args:
        run: Its folder.
        data: Where its data folder has been moved to.
        **folders: The same for ``target``, ``test`` and ``masks``.
    """
    moved = {name: Path(folder) for name, folder in folders.items()}
    return Run(resume(Path(run), Path(data) if data else None, **moved).path)


def free_run_path(data: Path, verb: str, root: Path = Path("runs")) -> Path:
    """``runs/<data>-<verb>``, numbered from 2 if taken."""
    return free_path(root / f"{data.resolve().name}-{verb}")


def _start(
    verb: str,
    data: str | Path,
    out: str | Path | None,
    preset: str,
    config: str | Path | None,
    settings: dict[str, Any],
) -> Run:
    module, schema = pipeline_of(verb)
    resolved = resolve(
        schema, module.PRESETS, preset, file=Path(config) if config else None, overrides=settings
    )
    root = Path(data)
    path = Path(out) if out else free_run_path(root, verb)
    return Run(start(verb, root, path, resolved, preset=preset).path)
