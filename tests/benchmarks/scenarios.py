"""What is measured, in groups of one table and one picture each."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["GROUPS", "Group", "Scenario", "choose"]


@dataclass(frozen=True)
class Scenario:
    """One column. ``load`` is what wsload gets, for a client MODE SIZE COUNT.

    ``unit`` also says what is read from the load generator's report; ``payload`` tells servers that can deliver text
    in two ways which is meant ("str" or "bytes"); ``pin`` overrides the run's; ``rounds`` is the most that make sense.
    """

    name: str
    title: str
    load: str
    unit: str = "messages/s"
    payload: str = "any"
    mode: str = "echo"  # what the server does
    pin: str | None = None
    rounds: int | None = None
    client: bool = False

    @property
    def deflate(self) -> bool:
        return "-z" in self.load.split()

    @property
    def low(self) -> bool:
        """Whether less is better."""
        return self.unit in ("KB", "ms")

    def needs(self) -> set[str]:
        """Return what a server must be able to do."""
        return {"deflate"} if self.deflate else {self.mode} - {"echo"}


@dataclass(frozen=True)
class Group:
    name: str
    title: str
    note: str
    scenarios: tuple[Scenario, ...]


def _echo(name: str, title: str, load: str, **more: str) -> Scenario:
    return Scenario(name, title, f"echo {load}", **more)  # type: ignore[arg-type]


def _client(name: str, title: str, load: str, unit: str = "messages/s") -> Scenario:
    return Scenario(name, title, load, unit, client=True)


GROUPS = (
    Group(
        "echo",
        "Echo",
        "32 bytes of text, one message in flight on each connection",
        (
            _echo("echo-1", "1 connection", "-c 1 -s 32"),
            _echo("echo-10", "10 connections", "-c 10 -s 32"),
            _echo("echo-100", "100 connections", "-c 100 -s 32"),
            _echo("echo-1000", "1,000 connections", "-c 1000 -s 32"),
            _echo("echo-1000-unpinned", "1,000 connections, not pinned", "-c 1000 -s 32", pin="none"),
        ),
    ),
    Group(
        "pipelined",
        "Echo of messages that arrive together",
        "32 bytes of text, many messages in flight on each connection",
        (
            _echo("pipe-1", "1 connection, 32 in flight", "-c 1 -d 32 -s 32"),
            _echo("pipe-10", "10 connections, 16 in flight", "-c 10 -d 16 -s 32"),
        ),
    ),
    Group(
        "large",
        "Echo of larger messages",
        "binary",
        (
            _echo("echo-16k", "16 KB, 10 connections", "-c 10 -s 16384 -k b"),
            _echo("echo-1m", "1 MB, 1 connection", "-c 1 -s 1048576 -k b", unit="MB/s"),
            _echo("echo-16m", "16 MB, 1 connection", "-c 1 -s 16777216 -k b", unit="MB/s"),
        ),
    ),
    Group(
        "text",
        "Echo of text that is not ASCII",
        "1 MB of characters of 1 to 4 bytes, 1 connection; delivered as str, or as bytes where a server can do that",
        (
            _echo("text-str", "as str", "-c 1 -s 1048576 -k u", unit="MB/s", payload="str"),
            _echo("text-bytes", "as validated bytes", "-c 1 -s 1048576 -k u", unit="MB/s", payload="bytes"),
        ),
    ),
    Group(
        "connecting",
        "Opening and closing connections",
        "TCP connect, both handshakes, end of stream; 8 at a time",
        (Scenario("connect", "connections opened and closed", "connect -c 8", "connections/s"),),
    ),
    Group(
        "fanout",
        "Fan-out",
        "64 bytes from one connection to all; 4 messages in flight",
        (
            Scenario(
                "fanout-100", "to 100", "fanout -c 100 -s 64 -d 4 -u /broadcast", "deliveries/s", mode="broadcast"
            ),
            Scenario(
                "fanout-1000", "to 1,000", "fanout -c 1000 -s 64 -d 4 -u /broadcast", "deliveries/s", mode="broadcast"
            ),
        ),
    ),
    Group(
        "deflate",
        "permessage-deflate",
        "JSON-like text, 10 connections; ours at the settings of websockets: 12 window bits, memory level 5, zlib's "
        "default level, every message compressed (npm ws and the C servers use 15 bits and memory level 8)",
        (
            _echo("deflate-1k", "1 KB", "-z -c 10 -s 1024"),
            _echo("deflate-8k", "8 KB", "-z -c 10 -s 8192"),
            _echo("deflate-16k", "16 KB", "-z -c 10 -s 16384"),
            _echo("deflate-64k", "64 KB", "-z -c 10 -s 65536"),
            _echo("deflate-256k", "256 KB", "-z -c 10 -s 262144"),
        ),
    ),
    Group(
        "memory",
        "Memory of an idle connection",
        "resident KB a connection at 1,000, one message echoed on each; without the kernel's own",
        (Scenario("idle", "KB a connection", "idle -c 1000 -s 32", "KB", rounds=1),),
    ),
    Group(
        "client-round-trips",
        "Client: round trips",
        "against the C server with a thread for each connection; text up to 1 KB, binary above",
        (
            _client("rtt-32", "32 B", "rtt 32 10000"),
            _client("rtt-1k", "1 KB", "rtt 1024 10000"),
            _client("rtt-64k", "64 KB", "rttb 65536 2000"),
            _client("rtt-1m", "1 MB", "rttb 1048576 100", "MB/s"),
        ),
    ),
    Group(
        "client-bulk",
        "Client: streams",
        "binary messages one way",
        (
            _client("push-1k", "sending 1 KB", "push 1024 20000"),
            _client("push-1m", "sending 1 MB", "push 1048576 200", "MB/s"),
            _client("pull-1k", "receiving 1 KB", "pull 1024 20000"),
            _client("pull-1m", "receiving 1 MB", "pull 1048576 200", "MB/s"),
        ),
    ),
    Group(
        "client-connecting",
        "Client: connecting",
        "connect and close, one at a time",
        (_client("client-connect", "connections opened and closed", "connect 0 300", "connections/s"),),
    ),
    Group(
        "blocking",
        "Handlers that block, crowds that are idle",
        "p99 of 90 connections while 10 have handlers that sleep 50 ms a message; the share of the rate of 100 "
        "connections that is left beside 10,000 idle ones, which all answer pings",
        (
            Scenario("sleepers", "p99 beside sleeping handlers", "echo -c 90 -s 32", "ms", mode="sleepers"),
            Scenario("crowd", "rate beside 10,000 idle", "echo -c 100 -s 32", "share", mode="crowd", rounds=2),
        ),
    ),
)


def choose(patterns: list[str]) -> list[Group]:
    """Return the groups with the scenarios that were asked for: a group, a scenario, or a part of scenarios' names."""
    names = {group.name for group in GROUPS} | {each.name for group in GROUPS for each in group.scenarios}

    def wanted(group: Group, scenario: Scenario) -> bool:
        exact = {group.name, scenario.name}
        return any(word in exact or word not in names and word in scenario.name for word in patterns)

    chosen = []
    for group in GROUPS:
        scenarios = tuple(each for each in group.scenarios if not patterns or wanted(group, each))
        if scenarios:
            chosen.append(replace(group, scenarios=scenarios))
    return chosen
