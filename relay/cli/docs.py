"""`relay docs`: lists, prints and searches the handbook. It needs no server and no network."""

from __future__ import annotations

import sys

import click

from relay.docs import handbook


@click.command()
@click.argument("topic", required=False)
@click.option("--grep", "word", metavar="WORD", help="List every line of the handbook that contains WORD, in any case.")
def docs(topic: str | None, word: str | None) -> None:
    """List the pages of the handbook, or print the one on TOPIC.

    The topic grafana is a dashboard for Grafana, as JSON. The pages are part of the installation. A terminal gets them
    formatted, a pipe gets plain Markdown. With --grep the exit code is 1 if no line contains the word.

    \b
    Example:
      relay docs
      relay docs operations
      relay docs --grep 1013
      relay docs grafana > dashboard.json
    """
    if topic == handbook.DASHBOARD and word is None:
        click.echo(handbook.dashboard(), nl=False)
    elif word is not None:
        _search(word, topic)
    elif topic is not None:
        _print(_known(topic))
    else:
        _list()


def _known(topic: str) -> str:
    if topic not in handbook.topics():
        names = ", ".join([*handbook.topics(), handbook.DASHBOARD])
        raise click.BadParameter(f"there is no page on {topic!r}; the pages are: {names}.", param_hint="TOPIC")
    return topic


def _list() -> None:
    width = max(map(len, handbook.topics()))
    for part, topics in handbook.parts().items():
        click.echo(f"{part}:")
        for topic in topics:
            click.echo(f"  {topic:<{width}}  {handbook.page(topic).summary}")
    click.echo("Print a page with: relay docs TOPIC. Search all of them with: relay docs --grep WORD", err=True)


def _print(topic: str) -> None:
    text = handbook.page(topic).text
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def _search(word: str, topic: str | None) -> None:
    wanted = None if topic is None else _known(topic)
    matches = [match for match in handbook.search(word) if wanted in (None, match.topic)]
    for match in matches:
        click.echo(f"{match.topic}:{match.number}: ({match.section}) {match.line}")
    if not matches:
        raise click.ClickException(f"no page contains {word!r}.")
