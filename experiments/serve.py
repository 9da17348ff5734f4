"""Serves a checkpoint to robots and evaluations, over websockets in the protocol of openpi's clients.

    python experiments/serve.py --checkpoint runs/NAME [--port 8000] [--host 127.0.0.1] [--key-file FILE]

Beyond this machine (--host 0.0.0.0) clients must send a key: from --key-file, or the variable DEXHIL_API_KEY. Ctrl-C
ends it; clients connect again. Writes metrics.jsonl as it goes and report.json (requests, errors, latency) at the end.
A client: `dexhil.serving.client.PolicyClient`, or openpi-client; requests: `dexhil.serving.messages`. There is no
encryption: through networks of others, use a tunnel or a proxy with TLS (wss://).
"""

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.serve())

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from dexhil.commands import ConfigError, Run, run_command, stop_requested
from dexhil.fit import PolicyInfo
from dexhil.policy import Policy
from dexhil.serving.keys import VARIABLE, check_host, read_key
from dexhil.serving.server import PolicyServer
from dexhil.training.checkpoints import find_step

POLL_S, LOG_S = 0.2, 10.0


def main(argv: Sequence[str]) -> None:
    options = command_options.serve().parse_args(argv)
    key = read_key(options.key_file)
    check_host(options.host, key)
    check_port(options.host, options.port)
    path = find_step(options.checkpoint, options.step)
    run = Run(options.workdir or options.checkpoint / "serve", "serve", vars(options))
    run.resume(0)
    with stop_requested("telling the clients") as stopping:
        policy = Policy.load(options.checkpoint, options.step, rtc=options.rtc)
        server = PolicyServer(policy, policy.info, host=options.host, port=options.port, key=key)
        asyncio.run(serve(server, run, stopping, with_key=bool(key)))
    report = run.report(server.stats.summary(), lineage={"checkpoint": path, **policy.meta.lineage})
    print(f"{server.stats.line()}; report: {run.workdir / 'report.json'} after {report['seconds']:.0f} s")


def check_port(host: str, port: int) -> None:
    """Raises ConfigError where the server could not listen: before the policy is loaded, not after."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: expected 0 (a free one) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another"
        ) from None


async def serve(server: PolicyServer, run: Run, stopping: Callable[[], bool], *, with_key: bool) -> None:
    """Until `stopping()`; shows the counts on a terminal, and logs them every LOG_S where they are new."""
    async with server:
        print(welcome(server.info, server.uri, with_key), flush=True)
        with Console().status("") as status:  # only a terminal shows it
            logged, last = run.seconds, server.stats.line()
            while not stopping():
                await asyncio.sleep(POLL_S)
                line = server.stats.line()
                status.update(line)
                if run.seconds - logged >= LOG_S and line != last:
                    run.log(server.stats.requests, server.stats.summary())
                    logged, last = run.seconds, line
                    if not sys.stdout.isatty():
                        print(line, flush=True)


def welcome(info: PolicyInfo, uri: str, with_key: bool) -> str:
    """What somebody who writes a client must know."""
    key = f"needed, header Authorization: Api-Key … (clients of ours read {VARIABLE})" if with_key else "none needed"
    return (
        f"serving {info.checkpoint} at {uri}   (health: {uri.replace('ws:', 'http:', 1)}/healthz)\n"
        f"  robot    {info.robot}: state [{info.state_dim}], actions [{info.chunk}, {info.action_dim}], "
        f"absolute joint targets in rad, {info.control_hz:g} Hz\n"
        f"  cameras  {', '.join(info.cameras)}: uint8 [H, W, 3], resized to {info.image_size} x {info.image_size}\n"
        f"  key      {key}"
    )


if __name__ == "__main__":
    run_command(main)
