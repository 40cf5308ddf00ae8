"""What operators and safety devices ask of the fleet node: stops, robots that join or leave, another policy."""

from __future__ import annotations

import threading
from functools import partial

from marlgpt_msgs.srv import LoadPolicy, RobotCommand
from rclpy.task import Future
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from marlgpt_policy.nodes import policy_files as policies
from marlgpt_policy.nodes.event_log import short
from marlgpt_policy.nodes.fleet_session import FleetSession
from marlgpt_policy.nodes.parameters import LONGEST_NAME, check_names
from marlgpt_policy.nodes.pose_sources import require_tf
from marlgpt_policy.nodes.qos import RELIABLE
from marlgpt_policy.policy.probes import sample

LONGEST_PATH = 4096
"""Characters of a policy's path."""


class OperatorServices:
    """Services and emergency stops of a fleet node."""

    def __init__(self, node: FleetSession) -> None:
        """Serve on ``node`` until :meth:`destroy`."""
        self._node = node
        self._loading = False
        commands = {
            "resume_robot": self._resume_robot, "add_robot": self._add_robot,
            "remove_robot": self._remove_robot,
        }  # fmt: skip
        self._services = [
            node.serve(Trigger, "fleet/stop", self._stop, stop=True),
            node.serve(RobotCommand, "fleet/stop_robot", partial(self._command, self._stop_robot), stop=True),
            node.serve(Trigger, "fleet/resume", self._resume),
            node.serve(LoadPolicy, "fleet/load_policy", self._load_policy),
            *(
                node.serve(RobotCommand, f"fleet/{name}", partial(self._command, act))
                for name, act in commands.items()
            ),
        ]
        self._emergency = node.listen(Bool, "fleet/emergency_stop", self.emergency_stop, RELIABLE)
        node.request_limits.stops_come_by(self._emergency)

    def destroy(self) -> None:
        """End all services."""
        for stop in (*self._services[:2], self._emergency):
            self._node.request_limits.no_more_stops_by(stop)
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_subscription(self._emergency)

    # Stops ----------------------------------------------------------------------------------------------

    def emergency_stop(self, message: Bool) -> None:
        """``fleet/emergency_stop``: true stops all robots."""
        if message.data:
            self._stop_fleet("fleet/emergency_stop")

    def emergency_stop_robot(self, name: str, message: Bool) -> None:
        """``<robot>/emergency_stop``: true stops that robot."""
        if message.data:
            self._halt(name, f"{name}/emergency_stop")

    def _stop_fleet(self, source: str) -> None:
        node, stops = self._node, self._node.stops
        new, stops.stopped = not stops.stopped, True  # also for a fleet that is still to come
        # Who stands already is sent zeros in each period anyway: repeated stops must not keep the node from that.
        if node.fleet is not None and (new or not node.fleet.stopped or node.fleet.commands.any()):
            node.fleet.stop()
            node.stand()
        if new:
            text = "fleet stopped until fleet/resume is called"
            node.event_log.write("warning", "fleet_stopped", text, by=source)

    def _halt(self, name: str, source: str) -> None:
        node, stops = self._node, self._node.stops
        new = name not in stops.halted
        stops.halted.add(name)
        index = node.index_of(name)
        if index is not None and (new or not node.fleet.halted[index] or node.fleet.commands[index].any()):
            node.fleet.stop(index)
            node.fleet.stand(index)
            node.cmd_vel.send(name, node.get_clock().now().to_msg())
        if new:
            text = f"'{name}' stopped until fleet/resume_robot is called"
            node.event_log.write("warning", "robot_stopped", text, robot=name, by=source)

    def _stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop_fleet("fleet/stop")
        response.success, response.message = True, "stopped until fleet/resume is called"
        return response

    def _resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        node = self._node
        node.stops.stopped = False
        response.success, response.message = True, "resumed; no map has been received yet"
        if node.fleet is not None:
            node.fleet.resume()
            response.message = "driving"
        if node.stops.halted:
            response.message += f"; still stopped one by one: {short(sorted(node.stops.halted))}"
        node.event_log.write("warning", "fleet_resumed", "fleet resumed", by="fleet/resume")
        return response

    # Single robots --------------------------------------------------------------------------------------

    def _command(self, act, request: RobotCommand.Request, response: RobotCommand.Response):
        """Run ``act`` for the robot that a request names; what it refuses with ``ValueError`` is answered."""
        try:
            if not 0 < len(request.robot) <= LONGEST_NAME:
                raise ValueError(f"a robot's name has 1 to {LONGEST_NAME} characters")
            response.message, response.success = act(request.robot), True
        except ValueError as error:
            response.message, response.success = str(error), False
            self._node.event_log.reject("command", f"refused: {short(error)}")
        return response

    def _known(self, name: str) -> None:
        if name not in self._node.names:
            raise ValueError(f"no robot is named '{short(name)}'")

    def _in_fleet(self, name: str) -> int:
        index = self._node.index_of(name)
        if index is None or self._node.fleet.removed[index]:
            raise ValueError(f"no robot of the fleet is named '{short(name)}'")
        return index

    def _stop_robot(self, name: str) -> str:
        self._known(name)
        self._halt(name, "fleet/stop_robot")
        return f"'{name}' stopped until fleet/resume_robot is called"

    def _resume_robot(self, name: str) -> str:
        node = self._node
        self._known(name)
        node.stops.halted.discard(name)
        index = node.index_of(name)
        if index is not None:
            node.fleet.resume(index)
        node.event_log.write("warning", "robot_resumed", f"'{name}' resumed", robot=name)
        return f"'{name}' resumed" + ("; the fleet is still stopped" if node.stops.stopped else "")

    def _add_robot(self, name: str) -> str:
        node = self._node
        if node.fleet is None:
            raise ValueError(
                "there is no map yet; name robots in the parameter 'robots', or wait for the map"
            )
        most = node.settings.max_robots
        check_names([name], most)
        if name not in node.fleet.names and len(node.fleet.names) >= most:
            raise ValueError(f"the fleet has known {most} robots, as many as parameter 'max_robots' allows")
        driver = node.presence.driver_of(name)
        if driver:
            raise ValueError(f"{driver} drives '{name}'; remove it from that fleet first")
        robot = node.settings.robots_file.entry(name)
        require_tf(robot)
        index = node.fleet.add_robot(robot.config)
        node.stops.apply(node.fleet)
        node.join(index, name)
        node.event_log.write("info", "robot_added", f"'{name}' is in the fleet", robot=name)
        return f"'{name}' is in the fleet" + ("; it is stopped" if name in node.stops.halted else "")

    def _remove_robot(self, name: str) -> str:
        node = self._node
        index = self._in_fleet(name)
        node.cmd_vel.send(name, node.get_clock().now().to_msg())
        node.fleet.remove_robot(index)
        node.leave(index, name)
        node.event_log.write("warning", "robot_removed", f"'{name}' is out of the fleet", robot=name)
        return f"'{name}' is out of the fleet: its cells are free, it gets no more commands"

    # Policies -------------------------------------------------------------------------------------------

    async def _load_policy(self, request: LoadPolicy.Request, response: LoadPolicy.Response):
        """Load and try out the file in a process of its own while control periods go on; swap between two of them."""
        node = self._node
        try:
            if self._loading:
                raise ValueError("another file is being loaded")
            if not request.sha256 and node.settings.require_policy_hash:
                raise ValueError("parameter 'require_policy_hash' is set; give the file's sha256")
            if not 0 < len(request.path) <= LONGEST_PATH:
                raise ValueError(f"a path has 1 to {LONGEST_PATH} characters")
            self._loading = True
            try:
                policy = await self._loaded(request.path, request.sha256)
            finally:
                self._loading = False
            if node.operator is not self:
                policy.close()
                raise ValueError("the node was cleaned up meanwhile")
            node.use_policy(policy)
            response.success = True
            response.message = f"{policy.name} (sha256 {policy.sha256}) on {policy.provider}"
            node.event_log.write(
                "warning", "policy_loaded", f"policy {policy.name} drives the fleet", sha256=policy.sha256,
                provider=policy.provider,
            )  # fmt: skip
        except ValueError as error:  # PolicyError among them
            response.success, response.message = False, str(error)
            node.event_log.reject("policy", f"policy refused, the old one stays: {short(error)}")
        response.policy = node.policy.name if node.policy is not None else ""
        return response

    def _loaded(self, path: str, sha256: str) -> Future:
        """What a thread finds out that waits for the process: the policy, or why there is none."""
        node = self._node
        future, settings = Future(executor=node.executor), node.settings
        robots, seen = len(node.names), list(node.policy.recent)
        moves = None if node.grid is None else node.grid.moves
        policy = policies.start_policy(settings, path, sha256)

        def load() -> None:
            try:
                batches = [*seen, *sample(moves, robots), *sample(None, robots)]
                future.set_result(policies.finish(policy, batches, settings.policy_load_timeout))
            except Exception as error:  # whatever it is, it belongs to who waits for the file
                future.set_exception(error if isinstance(error, ValueError) else ValueError(repr(error)))

        threading.Thread(target=load, name="load_policy", daemon=True).start()
        return future
