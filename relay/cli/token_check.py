"""`relay token check`: explains a token step by step: its claims, its validity here, and the rights that it gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.cli.settings import config_option, load
from relay.cli.token_secret import verification_secret
from relay.model.principal import Principal

if TYPE_CHECKING:
    from relay.model.namespaces import ChannelName, Namespaces
    from relay.model.subscription_proof import SubscriptionProof


@click.command("check")
@click.argument("token")
@click.option("--subscribe", metavar="CHANNEL", help="Tell whether its user may subscribe to CHANNEL, and why.")
@click.option("--publish", metavar="CHANNEL", help="Tell whether its user may publish to CHANNEL, and why.")
@config_option
def token_check(token: str, subscribe: str | None, publish: str | None, config_file: Path | None) -> None:
    """Explain the token TOKEN: its claims, whether this server accepts it, and what it allows.

    The exit code is 1 if the token is not valid here, or does not allow what was asked.

    \b
    Example:
      relay token check eyJhbGciOi...
      relay token check eyJhbGciOi... --subscribe orders:42
    """
    if subscribe is not None and publish is not None:
        raise click.UsageError("Ask for one channel: --subscribe or --publish.")
    config = load(config_file)
    import trio

    from relay.ground.clock import Clock
    from relay.ground.errors import RefusalReason, RequestError
    from relay.model.namespaces import namespaces_of
    from relay.server.build import make_tokens

    tokens = make_tokens(config.auth, verification_secret(config), Clock())
    namespaces = namespaces_of(config)
    proof: SubscriptionProof | None = None
    principal: Principal | None = None
    try:
        try:
            principal = trio.run(tokens.authenticate, token)
            click.echo("\n".join(_connection(principal, namespaces)))
        except RequestError as refusal:
            if refusal.reason is not RefusalReason.WRONG_TOKEN:
                raise
            proof = trio.run(tokens.subscription, token)
            principal = None if proof.user_id is None else Principal(proof.user_id)
            click.echo("\n".join(_subscription(proof)))
        asked = publish if subscribe is None else subscribe
        if asked is not None:
            channel = namespaces.parse(asked)
            click.echo(_rule(channel))
            click.echo(f"ok    {_basis(channel, principal, proof, publishing=publish is not None)}")
    except RequestError as refusal:
        reason = "" if refusal.reason is None else f" (reason {refusal.reason.value})"
        raise click.ClickException(f"{refusal.message}{reason}") from None


def _connection(principal: Principal, namespaces: Namespaces) -> Iterator[str]:
    """Yield the lines on a connection token."""
    yield f"ok    It is a connection token that this server accepts, until {principal.expires_at:%Y-%m-%d %H:%M:%S} UTC."
    name = " ".join(part for part in (principal.first_name, principal.last_name) if part)
    yield f"      User: {principal.user_id}{f' ({name})' if name else ''}{', an admin' if principal.is_admin else ''}."
    for action, patterns in (("subscribe", principal.grants.subscribe), ("publish", principal.grants.publish)):
        texts = patterns.texts()
        if texts:
            yield f"      Grants to {action}: {', '.join(texts)}."
        for text in texts:
            namespace = None if text == "*" else namespaces.of(text)
            if namespace is not None and namespace.built_in:
                yield f"note  {text} is ignored: {namespace.name} is built in, and grants do not change its rights."
            elif namespace is None and text != "*":
                yield f"note  {text} matches nothing here: it belongs to no namespace of this configuration."
    if principal.channels:
        yield f"      Subscribed when it connects: {', '.join(principal.channels)}."
    if principal.info is not None:
        yield f"      Info for others: {principal.info.decode()}"


def _subscription(proof: SubscriptionProof) -> Iterator[str]:
    """Yield the lines on a subscription token."""
    assert proof.expires_at is not None  # a token always ends
    yield f"ok    It is a subscription token that this server accepts, until {proof.expires_at:%Y-%m-%d %H:%M:%S} UTC."
    yield f"      Channel: {proof.channel}. User: {proof.user_id or 'a client without a token'}."


def _rule(channel: ChannelName) -> str:
    namespace = channel.namespace
    of = "is built in" if namespace.built_in else "is configured"
    return (
        f"      {channel.text} belongs to the namespace {namespace.name}, which {of} "
        f'(subscribe = "{namespace.subscribe.value}", publish = "{namespace.publish.value}").'
    )


def _basis(
    channel: ChannelName, principal: Principal | None, proof: SubscriptionProof | None, *, publishing: bool
) -> str:
    """Return why the right exists. Raises RequestError if it does not."""
    from relay.access.rights import asked_to_publish, asked_to_subscribe
    from relay.access.rules import check_without_rooms
    from relay.ground.errors import RequestError

    hook = asked_to_publish(principal, channel) if publishing else None
    try:
        basis = None if hook is not None else check_without_rooms(channel, principal, proof, publishing=publishing)
    except RequestError as refusal:
        hook = None if publishing else asked_to_subscribe(principal, channel, proof, refusal)
        if hook is None:
            raise
    if hook is not None:
        return f"The backend of the hook {hook} decides: relay why asks it."
    if basis is None:
        return "It depends on the members of the room, which only the server knows."
    if principal is not None and basis.name == "GRANT":
        patterns = principal.grants.publish if publishing else principal.grants.subscribe
        return f"It may: {basis.value} ({', '.join(patterns.matching(channel.text))})."
    return f"It may: {basis.value}."
