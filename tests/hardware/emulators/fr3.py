"""The emulated Franka Research 3 with reflexes: SIGUSR1 triggers one for a collision, which franky-sim lacks.

python -m tests.hardware.emulators.fr3
"""

from __future__ import annotations

import signal
from typing import Any

from franky_sim import franka_robot_protocol as protocol
from franky_sim import franka_robot_server as simulated
from franky_sim import simulation_server

from hardware.emulators.fr3 import main

JOINT_REFLEX = 6  # number of the flag for a collision in joint space among the 41 of libfranka


class Server(simulated.FrankaRobotServer):
    """Aborts the motion as a collision does, until recovery."""

    reflexed = wanted = False
    _tcp_socket: Any

    def process_commands(self) -> None:
        if Server.wanted and self.current_motion_id:
            Server.wanted, self.reflexed = False, True
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


def reflex(*_: Any) -> None:
    Server.wanted = True


if __name__ == "__main__":
    simulated.AutomaticErrorRecoveryCommand = Recovery
    simulation_server.FrankaRobotServer = Server
    signal.signal(signal.SIGUSR1, reflex)
    main()
