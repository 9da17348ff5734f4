"""A Franka Research 3 that speaks libfranka's protocol on simulated dynamics (franky-sim); prints its address."""

import argparse

from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF


def main() -> None:
    import franky_sim
    from franky_sim import simulation_server
    from franky_sim.mujoco_simulator import MujocoSimulator

    parser = argparse.ArgumentParser(description="A simulated Franka Research 3.")
    parser.add_argument("--host", help="address on this machine to answer at; by default the first free 127.*")
    host = parser.parse_args().host
    hosts = simulation_server.LocalHostnames() if host is None else [host]
    with MujocoSimulator() as simulator:
        robot = simulator.add_robot(initial_q=FR3_DEXHAND021.home[:ARM_DOF].astype(float).tolist())
        with franky_sim.SimulationServer(simulator, hosts) as server:
            print(robot.hostname, flush=True)
            server.run_forever()


if __name__ == "__main__":
    main()
