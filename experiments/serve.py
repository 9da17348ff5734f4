"""Serves a checkpoint to robots and evaluations, over websockets in the protocol of openpi's clients.

    python experiments/serve.py --checkpoint runs/NAME [--port 8000] [--host 127.0.0.1] [--key-file FILE]

Beyond this machine (--host 0.0.0.0) clients must send a key: from --key-file, or the variable DEXHIL_API_KEY. Ctrl-C
ends it once what is being computed is answered. Writes metrics.jsonl as it goes and report.json (requests, errors,
latency) at the end. A client: `dexhil.serving.client.PolicyClient`, or openpi-client; the request is described in
`dexhil.serving.messages`. There is no encryption: through networks of others, use a tunnel or a proxy with TLS (wss://).
"""

from __future__ import annotations

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.serve())

import asyncio
import contextlib
import datetime
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from dexhil.commands import Run, run_command, stop_requested
from dexhil.policy import Policy
from dexhil.robots.spec import ROBOTS
from dexhil.serving.keys import VARIABLE, check_host, read_key
from dexhil.serving.messages import PolicyInfo
from dexhil.serving.server import PolicyServer
from dexhil.training.checkpoints import find_step

POLL_S, LOG_S = 0.2, 10.0


def main(argv: Sequence[str]) -> None:
    options = command_options.serve().parse_args(argv)
    key = read_key(options.key_file)
    check_host(options.host, key)
    path = find_step(options.checkpoint, options.step)
    run = Run(options.workdir or options.checkpoint / "serve", "serve", vars(options))
    run.resume(0)
    with stop_requested("answering what is in hand") as stopping:
        policy = Policy.load(options.checkpoint, options.step, rtc=options.rtc)
        server = PolicyServer(policy, describe(policy, path), host=options.host, port=options.port, key=key)
        asyncio.run(serve(server, run, stopping, with_key=bool(key)))
    report = run.report(server.stats.summary(), lineage={"checkpoint": path, **policy.meta.lineage})
    print(f"{server.stats.line()}; report: {run.workdir / 'report.json'} after {report['seconds']:.0f} s")


def describe(policy: Policy, path: Path) -> PolicyInfo:
    """What the server says of the policy, loaded from the checkpoint in `path`."""
    meta = policy.meta
    widths, robot = meta.normalization.recorded_dims, ROBOTS.get(meta.robot)
    numbered = tuple(f"action_{i}" for i in range(widths["actions"]))
    return PolicyInfo(
        robot=meta.robot,
        control_hz=meta.control_hz,
        cameras=meta.model.cameras,
        image_size=meta.model.image_size,
        state_dim=widths["state"],
        chunk=meta.model.chunk,
        action_dim=widths["actions"],
        action_names=robot.joint_names if robot and robot.action_dim == len(numbered) else numbered,
        max_delay=policy.max_delay,
        action_space=meta.normalization.action_space,
        checkpoint=f"{path.parent.parent.name}/{path.name}",
        saved=datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).isoformat(),
        normalization=meta.normalization.hash(),
    )


async def serve(server: PolicyServer, run: Run, stopping: Callable[[], bool], *, with_key: bool) -> None:
    """Until `stopping()`; shows the counts on a terminal, and logs them every LOG_S where they are new."""
    async with server:
        print(welcome(server.info, server.uri, with_key), flush=True)
        with status_line() as show:
            logged, last = run.seconds, server.stats.line()
            while not stopping():
                await asyncio.sleep(POLL_S)
                line = server.stats.line()
                show(line)
                if run.seconds - logged >= LOG_S and line != last:
                    run.log(server.stats.requests, server.stats.summary())
                    logged, last = run.seconds, line
                    if not sys.stdout.isatty():
                        print(line, flush=True)


def welcome(info: PolicyInfo, uri: str, with_key: bool) -> str:
    """What somebody who writes a client must know."""
    key = f"needed, header Authorization: Api-Key … (clients of ours read {VARIABLE})" if with_key else "none needed"
    return "\n".join(
        [
            f"serving {info.checkpoint} at {uri}   (health: {uri.replace('ws:', 'http:', 1)}/healthz)",
            f"  robot    {info.robot}: state [{info.state_dim}], actions [{info.chunk}, {info.action_dim}], "
            f"absolute joint targets in rad, {info.control_hz:g} Hz",
            f"  cameras  {', '.join(info.cameras)}: uint8 [H, W, 3], resized to {info.image_size} x {info.image_size}",
            f"  key      {key}",
        ]
    )


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Yields a function that shows a line in place on a terminal, and does nothing elsewhere."""
    if not sys.stdout.isatty():
        yield lambda line: None
        return
    with Console().status("") as status:
        yield status.update


if __name__ == "__main__":
    run_command(main)
