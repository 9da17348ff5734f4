"""A Franka Research 3 that speaks libfranka's TCP and UDP protocol on simulated dynamics: franky-sim, with reflexes.

    python -m hardware.emulators.fr3

Prints the address to connect to. SIGUSR1 triggers a collision reflex as the robot's own, which franky-sim lacks.
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

from dexhil.robots.spec import FR3_DEXHAND021

JOINT_REFLEX = 6  # number of the flag for a collision in joint space among the 41 of libfranka


def server_with_reflexes() -> Any:
    """franky-sim's robot server, with `reflex()`, which aborts the motion as a collision does, until recovery."""
    from franky_sim import franka_robot_protocol as protocol
    from franky_sim import franka_robot_server as simulated

    class Server(simulated.FrankaRobotServer):
        reflexed = wanted = False
        _tcp_socket: Any

        def process_commands(self) -> None:
            if self.wanted and self.current_motion_id:
                self.wanted, self.reflexed = False, True
                motion = self.current_motion_id
                self.stop_motion(send_preemption_signal=False)
                self.send_state()
                protocol.BaseCommand.send_response(
                    self._tcp_socket, protocol.RobotCommand.kMove, motion, protocol.MoveStatus.kReflexAborted
                )
                self.reset_current_motion_id()
            super().process_commands()

        @property
        def robot_state(self) -> Any:
            state = super().robot_state
            if not self.reflexed:
                return state
            flags = tuple(flag == JOINT_REFLEX for flag in range(41))
            return state.replace(
                robot_mode=protocol.RobotMode.kReflex, errors=flags, current_errors=flags, last_motion_errors=flags,
                reflex_reason=flags,
            )  # fmt: skip

    class Recovery(protocol.AutomaticErrorRecoveryCommand):
        def handle(self, server: Any) -> None:
            server.reflexed = False
            super().handle(server)

    simulated.AutomaticErrorRecoveryCommand = Recovery
    return Server


def main() -> None:
    import franky_sim
    from franky_sim import simulation_server
    from franky_sim.mujoco_simulator import MujocoSimulator

    parser = argparse.ArgumentParser(description="A simulated Franka Research 3.")
    parser.add_argument("--host", help="address on this machine to answer at; by default the first free 127.*")
    host = parser.parse_args().host
    hosts = simulation_server.LocalHostnames() if host is None else [host]
    simulation_server.FrankaRobotServer = server_with_reflexes()
    with MujocoSimulator() as simulator:
        robot = simulator.add_robot(initial_q=FR3_DEXHAND021.home[:7].astype(float).tolist())
        with franky_sim.SimulationServer(simulator, hosts) as server:
            robot_server: Any = server.robot_servers[0]

            def reflex(*_: Any) -> None:
                robot_server.wanted = True

            signal.signal(signal.SIGUSR1, reflex)
            print(robot.hostname, flush=True)
            server.run_forever()


if __name__ == "__main__":
    main()
