"""The command line: reads arguments, calls the library, prints; no logic of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TextIO

from cyclopts import App, CycloptsError, Group, Parameter

from fewmask import __version__
from fewmask.errors import FewmaskError, Interrupted, UsageError, shell_command
from fewmask.shortages import resource_error

NEW_MASKS = Path("new_masks")

app = App(
    name="fewmask",
    help="Segmentation masks and a trained segmenter from images with few or no masks.",
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(consume_multiple=True),
    suppress_keyboard_interrupt=False,
)
MAKE, USE, LOOK = Group("Make", sort_key=1), Group("Use", sort_key=2), Group("Look", sort_key=3)

app.command("fewmask.cli_pipelines:tags", name="tags", group=MAKE,
            help="Image-level tags in; masks, a segmenter and a report out.")  # fmt: skip
app.command("fewmask.cli_pipelines:adapt", name="adapt", group=MAKE,
            help="Labelled day in, a segmenter for unlabelled night out.")  # fmt: skip
app.command("fewmask.cli_pipelines:saliency", name="saliency", group=MAKE,
            help="Few masks and saliency maps in; a segmenter out, maps judged.")  # fmt: skip
app.command("fewmask.cli_pipelines:train", name="train", group=MAKE,
            help="A plain supervised segmenter from images and masks.")  # fmt: skip
app.command("fewmask.cli_factory:app", name="factory", group=MAKE,
            help="A labelled-data factory from about thirty masks.")  # fmt: skip
app.command("fewmask.cli_domains:select", name="select", group=MAKE,
            help="Choose the images of a pool that are like a target.")  # fmt: skip
app.command("fewmask.cli_check:check", name="check", group=LOOK,
            help="What is in a data folder, what it is good for, and every problem.")  # fmt: skip
app.command("fewmask.cli_predict:predict", name="predict", group=USE,
            help="Masks and overlays of other images, scenes, volumes and videos.")  # fmt: skip
app.command("fewmask.cli_export:export", name="export", group=USE,
            help="A run's segmenter as an ONNX file, also for QGIS, or as weights with a card.")  # fmt: skip  # noqa: E501
app.command("fewmask.cli_domains:translate", name="translate", group=USE,
            help="Images in the light of a run's other domain, same names and sizes.")  # fmt: skip
app.command("fewmask.cli_explain:explain", name="explain", group=LOOK,
            help="Heatmaps of what a run's network, or timm's, looked at.")  # fmt: skip
app.command("fewmask.cli_ui:ui", name="ui", group=LOOK,
            help="Data, runs and reviews in the browser, on this machine.")  # fmt: skip


@app.command(group=MAKE)
def demo(
    pipeline: Literal["tags", "adapt", "saliency", "factory"] = "tags",
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    seed: int = 0,
) -> None:
    """Make sample data, run a pipeline on it, print the table. Offline.

    Args:
        pipeline: Which one.
        out: Folder for data and run; default: runs/demo-<pipeline>, numbered if taken.
        seed: Of data and run.
    """
    from fewmask.demo import margin, run_demo

    path = run_demo(pipeline, out, seed=seed)
    kind = "one average brain" if pipeline == "factory" else "synthetic data"
    print(f"{kind}, made for this demo: no benchmark, and no promise for your images\n")
    _print_table(path)
    if gained := margin(path):
        print(gained)
    print(f"report: {path / 'report.html'}")
    command, own = {
        "tags": ("tags DATA", "DATA"),
        "saliency": ("saliency DATA", "DATA"),
        "adapt": ("adapt --source DAY --target NIGHT", "DAY and NIGHT"),
        "factory": ("factory train IMAGES -o RUN", "IMAGES"),
    }[pipeline]
    tell_next(f"fewmask {command}", own=own)


@app.command(group=MAKE)
def resume(
    run: Path,
    /,
    *,
    data: Path | None = None,
    target: Path | None = None,
    test: Path | None = None,
    masks: Path | None = None,
) -> None:
    """Go on with an interrupted run where it stopped.

    Args:
        run: The run's folder.
        data: Where the run's data folder (of `adapt`, its source) is now, if it was moved; its
            content must be the same.
        target: The same for the target folder of `adapt`.
        test: The same for its test folder.
        masks: The same for the masks of `factory label`.
    """
    from fewmask.pipelines.running import resume as resume_run

    _finished(resume_run(run, data, target=target, test=test, masks=masks).path)


@app.command(group=USE)
def evaluate(
    run: Path,
    data: Path,
    /,
    *,
    json: bool = False,
    save_masks: Path | None = None,
    device: str = "auto",
) -> None:
    """Measure a finished run on a folder with masks; refuses images that it was trained on.

    Args:
        run: A finished run.
        data: A folder with images and masks. Of the run's own data, wherever they lie now, the test
            part is measured.
        json: One JSON object on the standard output.
        save_masks: Write the predicted masks to this new folder.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from fewmask.predict import evaluate as evaluate_run
    from fewmask.training.run_folder import RunFolder
    from fewmask.training.run_places import free_path
    from fewmask.training.signals import stop_on_signals

    with stop_on_signals():
        metrics = evaluate_run(RunFolder.open(run), data, device=device, save_masks=save_masks)
    if json:
        print_json(metrics)
        return
    print(metrics.pop("measured"))
    for name, value in metrics.items():
        if not name.endswith(".ci95"):
            interval = metrics.get(f"{name}.ci95")
            shown = "undefined" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)  # fmt: skip  # noqa: E501
            print(f"{name:40} {shown}" + (f"   [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""))  # fmt: skip  # noqa: E501
    file = free_path(Path("scores.json"))
    tell_next(f"{shell_command('evaluate', run, data, '--json')} > {file}")


@app.command(group=LOOK)
def report(run: Path, /) -> None:
    """Print a run's table and say where its report is.

    Args:
        run: A finished run.
    """
    from fewmask.pipelines.finished import read_card
    from fewmask.training.run_folder import RunFolder

    read_card(RunFolder.open(run))
    _finished(run)


@app.command(group=LOOK)
def runs(root: Path = Path("runs"), /, *, json: bool = False) -> None:
    """List runs with their state and headline score.

    Args:
        root: Where to look.
        json: One JSON array on the standard output.
    """
    from fewmask.training.run_places import find_runs

    found = [run.summary() for run in find_runs(root)]
    if json:
        print_json(found)
        return
    if not found:
        print(f"no runs below {root}")
    for line in found:
        print("{path:40} {pipeline:6} {preset:6} {state:12} {score}".format(**line).rstrip())
        if line["error"]:
            print(f"    {line['error'].splitlines()[0]}")
    verbs = {"interrupted": "resume", "killed": "resume", "finished": "report"}
    newest = {verbs[x["state"]]: x["path"] for x in reversed(found) if x["state"] in verbs}
    commands = [shell_command(*each) for each in newest.items()]
    if commands or not found:
        tell_next(*(commands or ["fewmask demo tags"]))


@app.command(group=LOOK)
def doctor(*, json: bool = False) -> None:
    """What this machine has: versions, device, threads, extras, and whether all fits together.

    Args:
        json: One JSON object on the standard output.
    """
    from fewmask.doctor import examine

    facts = examine()
    if json:
        print_json(facts)
    else:
        for name, value in facts.items():
            print(f"{name:32} {value}")
        tell_next("fewmask demo tags")


@app.command(group=LOOK)
def networks(*, json: bool = False) -> None:
    """The published networks: parameters in all and trainable, counted on the modules.

    Args:
        json: One JSON array on the standard output.
    """
    from fewmask.models.published import published_networks

    rows = [row._asdict() for row in published_networks()]
    if json:
        print_json(rows)
        return
    for row in rows:
        print("{name:44} {parameters:>13,} in all {trainable:>13,} trainable".format(**row))
    tell_next("fewmask tags DATA --preset paper --dry-run", own="DATA")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command; errors become one message and an exit code, never a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        message = " ".join(str(error).split())
        known = arguments[:1] if arguments[:1] and arguments[0] in app else []
        _fail(
            UsageError.of("USAGE", where=shell_command(*arguments), found=message,
                          expected="a command as in the help", fix=shell_command(*known, "--help")),
            as_json,
        )  # fmt: skip
    except FewmaskError as error:
        _fail(error, as_json)
    except KeyboardInterrupt:
        print("stopped; no run was under way, and what was written so far is complete",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(75) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except Exception as error:
        shortage = resource_error(error)
        if shortage is None:
            raise
        _fail(shortage, as_json)
    raise SystemExit(0)


def _fail(error: FewmaskError, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"problems": [problem.as_dict() for problem in error.problems]})
    for problem in error.problems:
        if isinstance(error, Interrupted):  # what was asked for is no problem
            print(f"{problem.where}: stopped on request; everything is saved", file=sys.stderr)
            tell_next(problem.fix, file=sys.stderr)
        else:
            print(problem, file=sys.stderr)
    raise SystemExit(error.exit_code)


def _finished(path: Path) -> None:
    from fewmask.report.assemble import read_summary
    from fewmask.training.distributed import rank
    from fewmask.training.run_places import free_path

    if rank() > 0:  # the first of several processes speaks for all
        return
    _print_table(path)
    print(f"report: {path / 'report.html'}")
    words = read_summary(path).get("next")
    if words:
        tell_next(shell_command(*words))
    else:
        masks = free_path(NEW_MASKS)
        tell_next(shell_command("predict", path, "IMAGES", "-o", masks), own="IMAGES")


def _print_table(path: Path) -> None:
    from fewmask.report.assemble import summary_table

    print(summary_table(path))


def print_json(value: Any) -> None:
    """One JSON object on the standard output."""
    print(json.dumps(value, indent=1, default=str))


def tell_next(*commands: str, own: str = "", file: TextIO | None = None) -> None:
    """Print what to do next; ``own`` are the words in it that only the user can fill in."""
    title = f"next, with your own {own}: " if own else "next: "
    print(title + "\n      ".join(commands), file=file)


def planned(plan: dict[str, Any], command: str) -> None:
    """Print what a run would do as JSON; what comes next stands apart, on the standard error."""
    print_json(plan)
    tell_next(command, file=sys.stderr)


finished: Callable[[Path], None] = _finished
