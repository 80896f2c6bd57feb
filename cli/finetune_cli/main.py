"""The commands and their options. What they do stands in pull.py, ask.py and preview.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from finetune_api.spec import DataFormat
from finetune_cli.errors import CommandError

app = typer.Typer(
    no_args_is_help=True,
    help="Look at data before a FineTuneJob, fetch and try the model after it.",
    # A traceback with local variables would show access keys.
    pretty_exceptions_show_locals=False,
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(version("finetune-operator"))
        raise typer.Exit


@app.callback()
def finetune(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Look at data before a FineTuneJob, fetch and try the model after it."""


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="The FineTuneJob.")],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Its namespace. Default: the context's.")
    ] = None,
    merged: Annotated[
        bool | None,
        typer.Option("--merged/--adapter", help="Which one. Default: the merged model where there is one."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder to write. Default: ./NAME or ./NAME-adapter."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="URL of the object store, where it has another one here than inside the cluster."),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Requests at the same time.")] = 8,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    kubeconfig: Annotated[Path | None, typer.Option(help="The kubeconfig. Default: as kubectl.")] = None,
) -> None:
    """Download the tuned model of a FineTuneJob that has succeeded, and verify every file.

    Takes the access keys of your environment or AWS profile; without them, or where the store refuses them,
    those of the job's own Secret, if you may read it. An interrupted download goes on where it stopped.
    """
    from finetune_cli.cluster import open_cluster
    from finetune_cli.progress import RichReport
    from finetune_cli.pull import Request, pull_model

    with _errors_as_sentences():
        cluster = open_cluster(kubeconfig, context)
        job = cluster.load_job(name, namespace or cluster.namespace)
        request = Request(merged=merged, target=output, endpoint=endpoint, parallel=parallel)
        with RichReport() as report:
            pulled = pull_model(job, request, cluster.load_secret, report)
        print(pulled.sentence)


@app.command()
def ask(
    directory: Annotated[Path, typer.Argument(help="A pulled folder.")],
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    system: Annotated[str | None, typer.Option(help="A system message before the prompt.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Length of the longest answer, in tokens.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="0: always the likeliest token; above: drawn at random.")
    ] = 0.0,
    base: Annotated[
        Path | None, typer.Option(help="Folder of the base model, where the pulled folder is an adapter.")
    ] = None,
) -> None:
    """Ask a pulled model something, on this machine, on the GPU if there is one.

    Nothing is downloaded and no code from the folder is run.
    """
    from finetune_cli.ask import Question, answer

    with _errors_as_sentences():
        question = Question(prompt, system, max_new_tokens, temperature)
        reply = answer(directory, base, question)
        print(reply.text)
        for remark in reply.remarks:
            print(f"finetune: {remark}", file=sys.stderr)


@app.command("preview-data")
def preview_data(
    files: Annotated[
        list[Path], typer.Argument(help="Files or folders with rows, in place of the job's dataset.train.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Whose tokenizer and chat template: a folder, hf://org/name or modelscope://org/name. "
            "Default: the job's, else hf://Qwen/Qwen3-0.6B."
        ),
    ] = None,
    job: Annotated[
        Path | None, typer.Option(help="A FineTuneJob's YAML file, whose settings are taken.")
    ] = None,
    data_format: Annotated[
        DataFormat | None,
        typer.Option(
            "--format", case_sensitive=False, help="Format of the rows. Default: the job's, else recognised."
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, max=1_048_576, help="The longest row in tokens. Default: as a job.")
    ] = None,
    html: Annotated[Path, typer.Option(help="Where the report is written, as a page.")] = Path(
        "data-report.html"
    ),
    json: Annotated[
        Path | None, typer.Option(help="Where it is written for programs. Default: nowhere.")
    ] = None,
) -> None:
    """Show what a FineTuneJob would make of data: formats, what is left out and why, learned tokens.

    Does on this machine what the job's prepare stage does, and writes the same report.

    No row leaves the machine; only a tokenizer is fetched from its hub, where no folder is named.
    """
    from finetune_cli.preview import Preview
    from finetune_cli.preview import preview_data as run

    with _errors_as_sentences():
        exit_code = run(Preview(tuple(files), model, job, data_format, max_length, html, json))
    raise typer.Exit(exit_code)


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        print(f"finetune: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
