"""A Franka Research 3 with a DexHand021, two RealSense cameras, a glove, a cube and a gamepad: the rig of the paper."""

from ml_collections import ConfigDict

from dexhil.config import Config

PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default") -> Config:
    """default: the rig. quick: shorter episodes, fewer trials. debug: seconds, to see that it runs."""
    config = ConfigDict()
    config.preset = preset
    config.seed = 0

    config.rig = ConfigDict()
    config.rig.robot = "fr3_dexhand021"
    config.rig.tasks = ("plush", "tissue")
    config.rig.instructions = ConfigDict({"plush": "Grab that yellow plushie", "tissue": "Pull out a napkin"})
    config.rig.cameras = ("scene", "wrist")

    config.rates = ConfigDict()  # 1/s; the hand's must be a multiple of the arm's
    config.rates.policy_hz = 20.0
    config.rates.arm_hz = 30.0
    config.rates.hand_hz = 90.0

    config.policy = ConfigDict()
    config.policy.stale_s = 0.4  # a question that waits longer for its answer holds the robot: the policy's watchdog
    config.policy.execute_steps = 8  # these four: ExecutorConfig in dexhil/control/executor.py, as config.eval's
    config.policy.handover = "replace"
    config.policy.rtc = "auto"
    config.policy.fade_s = 0.15

    config.safety = ConfigDict()  # see dexhil/control/safety.py; NOT safety-rated
    config.safety.velocity_share = 0.8  # of FR3's and the hand's own limits
    config.safety.arm_acceleration = 10.0  # rad/s^2, FR3's own
    config.safety.arm_jerk = 300.0  # rad/s^3; FR3 allows 5,000
    config.safety.hand_acceleration = 40.0
    config.safety.hand_jerk = 2000.0
    config.safety.position_margin = 0.02  # rad
    config.safety.watchdog_periods = 3.0
    config.safety.watchdog_least_s = 0.1
    config.safety.soft_start_s = 1.0
    config.safety.box = ConfigDict()  # of the pinch point, m in the base frame
    config.safety.box.lower = (0.25, -0.45, -0.01)
    config.safety.box.upper = (0.80, 0.45, 0.75)
    config.safety.box.table_z = 0.0
    config.safety.box.tips_m = -0.01

    config.teleop = ConfigDict()
    config.teleop.retargeter = ""  # retargeter.npz of experiments/retarget.py; "": the glove gives joints itself
    config.teleop.blend = 0.0  # fraction of the policy in a takeover; 0: the person alone
    config.teleop.calibration = ""  # of hardware/calibrate.py hand-eye; "": the cube is held like the end effector

    config.episode = ConfigDict()
    config.episode.first_seed = 3_000_000
    config.episode.max_seconds = 30.0  # then a trial has failed; 0: the rig's own limit, where it has one
    config.episode.trials = 20  # per task
    config.episode.operator = "operator"  # recorded with every episode
    config.episode.videos_per_task = 1

    config.sim = ConfigDict()  # what stands in for the rig with --rig sim
    config.sim.difficulty = 0.5
    config.sim.image_size = 64
    config.sim.watchdog_least_s = 0.25  # its devices share the processor with the loops that watch them
    config.sim.person = ConfigDict()  # habits of the simulated person, dexhil/sim/person.py
    config.sim.person.reaction_s = (0.2, 0.5)
    config.sim.person.no_progress_s = 1.5
    config.sim.person.late_s = 8.0
    config.sim.person.false_alarms_per_s = 0.0
    config.sim.person.hand_back = 0.5

    config.devices = ConfigDict()  # driver: a name of hardware/devices/registry.py; the rest are its settings
    config.devices.arm = ConfigDict({"driver": "fr3", "host": "172.16.0.2"})
    config.devices.hand = ConfigDict({"driver": "dexhand021", "bus": {"interface": "socketcan", "channel": "can0"}})
    config.devices.cameras = ConfigDict(
        {"scene": {"driver": "realsense", "serial": ""}, "wrist": {"driver": "realsense", "serial": ""}}
    )
    # serials in quotes, from `rs-enumerate-devices -s`; "" takes the only camera
    config.devices.tracker = ConfigDict(
        {
            "driver": "aruco_cube",
            "camera": {"driver": "realsense", "serial": "", "width": 1280, "height": 720},
            "intrinsics": "data/calibration/camera.json",
        }
    )
    config.devices.glove = ConfigDict({"driver": "geort_glove"})
    config.devices.operator = ConfigDict({"driver": "gamepad"})

    if preset == "quick":
        config.episode.trials = 5
        config.episode.max_seconds = 20.0
    elif preset == "debug":
        config.episode.trials = 1
        config.episode.max_seconds = 4.0
        config.sim.person.late_s = 1.0
    return config
