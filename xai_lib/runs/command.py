"""The `xai` command."""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from xai_lib import __version__
from xai_lib.errors import XaiError
from xai_lib.runs import project as projects

EXIT_CODES = """Exit codes: 0 all complete, or nothing to do; 1 a notebook failed; 2 usage (unknown
notebook, profile, parameter or type); 3 held by another run; 130 ended by SIGINT; 143 ended by SIGTERM."""
EXAMPLES = """\b
Examples:
  xai list                                    notebooks, parameters, profiles
  xai run                                     all that is not complete
  xai run 01_elime -p runs=3 -p photographs=coffee,flower
  xai run elime --profile imagenet --jobs 2   two notebooks at a time
  xai status                                  complete, stale, damaged ...
  xai report                                  one page over all results"""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Run the notebooks headless and keep what they find.\n\n{EXAMPLES}\n\n{EXIT_CODES}",
)
Notebooks = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NOTEBOOK]...",
        show_default=False,
        help="01_elime, 01, elime or a path; all if none is named.",
    ),
]
Profile = Annotated[str, typer.Option(help="A file of papermill_runs/profiles.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        show_default=False,
        help="Set a parameter; may be repeated. Lists as a,b or as JSON.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xai {__version__}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    root: Annotated[
        Path | None, typer.Option(help="The project's folder, if not at or above this one.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    context.obj = root
    for name in ("XAI_DATA_HOME", "XAI_WEIGHTS_HOME"):  # kernels run in the project's folder, not in this one
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.environ[name])


@app.command("list")
def list_notebooks(context: typer.Context) -> None:
    """Notebooks with their paper, parameters (type, default, comment), and the profiles."""
    from xai_lib.runs import notebook
    from xai_lib.runs.parameters import OUTPUT, read

    project = projects.find(context.obj)
    for name in projects.select(project, []):
        content = notebook.load(project.notebook(name))
        typer.echo(f"{name}  {notebook.title(content, name)}")
        if paper := notebook.reference(content):
            typer.echo(f"    {paper}")
        entries = [entry for entry in read(content, name).values() if entry.name != OUTPUT]
        width = max((len(entry.name) + len(entry.type) for entry in entries), default=0) + 2
        for entry in entries:
            comment = f"  # {entry.comment}" if entry.comment else ""
            typer.echo(f"    {f'{entry.name}: {entry.type}':<{width}} = {entry.default!r}{comment}")
    typer.echo(f"profiles: {', '.join(project.profiles()) or 'none'}")


@app.command(epilog=EXIT_CODES)
def run(
    context: typer.Context,
    notebooks: Notebooks = None,
    profile: Profile = "default",
    parameters: Options = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="what cores and memory bear",
            help="Notebooks at a time; each gets cores // jobs threads.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run complete notebooks too, from the beginning.")
    ] = False,
    timeout: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="Limit for each cell.")
    ] = None,
    shards: Annotated[
        int, typer.Option(min=1, help="Split each notebook's long measurements in so many jobs.")
    ] = 1,
    executor: Annotated[
        str, typer.Option(help="What runs the jobs: local, slurm, or another executor of Snakemake.")
    ] = "local",
) -> None:
    """Run every notebook that is not complete: new, changed, damaged or failed. Complete ones are skipped.

    Paths among the parameters are relative to the project's folder, in which the kernels run.
    """
    from xai_lib.runs import batch, report

    project = projects.find(context.obj)
    outcome = batch.run(
        project,
        profile,
        notebooks or [],
        parameters or [],
        batch.Manner(jobs, timeout, force, shards, executor),
        sys.stdout,
    )
    for failure in outcome.failures:
        typer.echo(failure, err=True)
    if outcome.code < 128:
        typer.echo(f"report: {project.relative(report.write(project, profile))}")
    raise typer.Exit(outcome.code)


@app.command()
def status(
    context: typer.Context,
    notebooks: Notebooks = None,
    profile: Profile = "default",
    parameters: Options = None,
) -> None:
    """How each notebook stands: complete, never run, stale (and why), damaged, failed or running."""
    from xai_lib.runs import batch

    for each in batch.survey(projects.find(context.obj), profile, notebooks or [], parameters or []):
        typer.echo(f"{profile}  {each.name}  {each.state}")


@app.command("report")
def write_report(
    context: typer.Context,
    notebooks: Annotated[
        list[str] | None, typer.Argument(metavar="[NOTEBOOK]...", show_default=False, help="With --check: these alone.")
    ] = None,
    profile: Profile = "default",
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare the tables with the committed reference; 1 if a number moved too far."),
    ] = False,
) -> None:
    """Write papermill_runs/PROFILE/index.html: claims, figures, tables, times of every notebook."""
    from xai_lib.runs import comparison, report

    project = projects.find(context.obj)
    typer.echo(project.relative(report.write(project, profile)))
    if not check:
        return
    found = {name: comparison.compare(project, profile, name) for name in projects.select(project, notebooks or [])}
    for name, compared in found.items():
        said = comparison.lines(name, compared) if compared else [f"{name}  no reference of profile '{profile}'"]
        typer.echo("\n".join(said))
    if any(compared.moved for compared in found.values() if compared) or not any(found.values()):
        raise typer.Exit(1)


@app.command()
def publish(
    context: typer.Context,
    notebook: Annotated[str, typer.Argument(help="01_elime, 01, elime or a path.")],
    profile: Profile = "default",
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Tables, claims and run.json alone.")
    ] = False,
    limit: Annotated[float, typer.Option(min=0, help="Megabytes: HTML, then notebook are left out of more.")] = 3.0,
) -> None:
    """Copy a complete result to papermill_runs/reference and its claims into README.md, to be committed."""
    from xai_lib.runs import publication

    project = projects.find(context.obj)
    [name] = projects.select(project, [notebook])
    target = project.runs / "reference" / profile / name
    publication.publish(project.result(profile, name), target, tables_only=tables_only, limit=round(limit * 1e6))
    readme = project.root / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8")
        readme.write_text(publication.renew_claims(text, target), encoding="utf-8")
    typer.echo(project.relative(target))


def main() -> None:
    """Run the command; an error of ours is one message on stderr and an exit code, not a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        app(prog_name="xai")
    except XaiError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        typer.echo(f"xai: {error}", err=True)
        sys.exit(error.exit_code)


def _leave(number: int, _frame: Any) -> None:
    """A signal outside of a batch, which has handlers of its own."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
