"""Test double of StarCraft II, the server: it speaks the game's websocket protocol. IT IS NOT THE GAME.

It exists so that the unmodified ``smacv2`` package can play whole episodes where StarCraft II cannot be had. WIN RATES
AGAINST IT MEAN NOTHING and are never reported. ``install`` makes a folder that ``SC2PATH`` may point to: pysc2 finds a
binary in it, which is a script that runs this module.

The difficulty asked for when a game is created picks the enemy: very easy never fights, the cheating ones hit ten times
as hard, all others seek a fair fight.
"""

from __future__ import annotations

import argparse
import shlex
import stat
import sys
from pathlib import Path

BUILD = 75689
"""Game version 4.10, the one that SMACv2 is reported on."""
SMAC_TYPES = 9


def install(folder: Path) -> Path:
    """Make ``folder`` look like an installation of StarCraft II whose binary is this server."""
    binary = folder / "Versions" / f"Base{BUILD}" / "SC2_x64"
    binary.parent.mkdir(parents=True)
    command = f"exec {shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).resolve()))}"
    binary.write_text(f'#!/bin/sh\n{command} "$@"\n')
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    maps = folder / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    (maps / "32x32_flat.SC2Map").write_bytes(b"not a map: the test server has its own")
    return folder


class Game:
    """State of one connection: each request's method returns the payload of the response."""

    def __init__(self) -> None:
        """Launched, no game yet."""
        from s2clientprotocol import common_pb2, raw_pb2, sc2api_pb2

        self.common, self.raw, self.api = common_pb2, raw_pb2, sc2api_pb2
        self.status = sc2api_pb2.launched
        self.battle = None
        self.recipe: dict = {}

    def answer(self, request):
        """The response to ``request``; an error message where it is unknown or comes at the wrong time."""
        name = request.WhichOneof("request")
        response = self.api.Response(id=request.id)
        method = getattr(self, f"on_{name}", None)
        try:
            if method is None:
                raise ValueError(f"the test server does not know '{name}'")
            if self.battle is None and name not in ("ping", "create_game", "join_game", "quit"):
                raise ValueError(f"'{name}' before a game was joined")
            getattr(response, name).CopyFrom(method(getattr(request, name)))
        except ValueError as error:
            response.error.append(str(error))
        response.status = self.status
        return response

    def on_ping(self, _):
        return self.api.ResponsePing(
            game_version="4.10.0", data_version="", data_build=BUILD, base_build=BUILD
        )

    def on_create_game(self, request):
        if not request.local_map.map_data:
            raise ValueError("create_game without a map")
        api = self.api
        computer = [p.difficulty for p in request.player_setup if p.type == api.Computer]
        if len(computer) != 1:
            raise ValueError(f"create_game with {len(computer)} computer players, expected 1")
        cheats = computer[0] in (api.CheatVision, api.CheatMoney, api.CheatInsane)
        self.recipe = {
            "seed": request.random_seed,
            "peaceful": computer[0] == api.VeryEasy,
            "strength": 10.0 if cheats else 1.0,
        }
        self.status = api.init_game
        return api.ResponseCreateGame()

    def on_join_game(self, request):
        if self.status != self.api.init_game or not request.options.raw:
            raise ValueError("join_game needs a created game and the raw interface")
        self._begin()
        return self.api.ResponseJoinGame(player_id=1)

    def on_restart_game(self, _):
        self._begin()
        return self.api.ResponseRestartGame()

    def _begin(self) -> None:
        from sc2_test_battle import Battle

        self.battle, self.status = Battle(**self.recipe), self.api.in_game

    def on_leave_game(self, _):
        self.battle, self.status = None, self.api.launched
        return self.api.ResponseLeaveGame()

    def on_game_info(self, _):
        from sc2_test_battle import SIZE, pathable

        side = self.common.Size2DI(x=SIZE, y=SIZE)
        rows = [[pathable(x + 0.5, y + 0.5) for x in range(SIZE)] for y in range(SIZE)]
        bits = bytes(
            sum(cell << (7 - n) for n, cell in enumerate(row[x : x + 8]))
            for row in rows
            for x in range(0, SIZE, 8)
        )
        image = self.common.ImageData
        info = self.api.ResponseGameInfo(map_name="test double", local_map_path="test double")
        start = info.start_raw
        start.map_size.CopyFrom(side)
        start.pathing_grid.CopyFrom(image(bits_per_pixel=1, size=side, data=bits))
        start.placement_grid.CopyFrom(start.pathing_grid)
        start.terrain_height.CopyFrom(image(bits_per_pixel=8, size=side, data=bytes([127]) * SIZE**2))
        start.playable_area.p1.x = start.playable_area.p1.y = SIZE
        return info

    def on_data(self, _):
        from sc2_test_battle import BY_TYPE, FIRST_OWN_TYPE

        data = self.api.ResponseData()
        for unit_id in range(FIRST_OWN_TYPE + SMAC_TYPES):
            kind = BY_TYPE.get(unit_id)
            data.units.add(unit_id=unit_id, name=kind.name if kind else f"type{unit_id}", available=True)
        return data

    def on_step(self, request):
        self.battle.step(max(1, request.count))
        return self.api.ResponseStep(simulation_loop=self.battle.loop)

    def on_action(self, request):
        for action in request.actions:
            command = action.action_raw.unit_command
            target = None
            if command.HasField("target_unit_tag"):
                target = command.target_unit_tag
            elif command.HasField("target_world_space_pos"):
                target = (command.target_world_space_pos.x, command.target_world_space_pos.y)
            self.battle.command(list(command.unit_tags), command.ability_id, target)
        return self.api.ResponseAction(result=[1] * len(request.actions))

    def on_debug(self, request):
        for command in request.debug:
            if command.HasField("create_unit"):
                new = command.create_unit
                for _ in range(new.quantity):
                    self.battle.create(new.unit_type, new.owner, new.pos.x, new.pos.y)
            elif command.HasField("kill_unit"):
                self.battle.kill(list(command.kill_unit.tag))
        return self.api.ResponseDebug()

    def on_observation(self, _):
        found = self.api.ResponseObservation()
        found.observation.game_loop = self.battle.loop
        found.observation.player_common.player_id = 1
        for unit in self.battle.units.values():
            self._describe(unit, found.observation.raw_data.units.add())
        return found

    def _describe(self, unit, message) -> None:
        """Fill a raw unit. The SMAC maps reveal everything, so nothing is hidden."""
        kind = unit.kind
        message.display_type = self.raw.Visible
        message.alliance = self.raw.Self if unit.owner == 1 else self.raw.Enemy
        message.tag, message.unit_type, message.owner = unit.tag, unit.unit_type, unit.owner
        message.pos.x, message.pos.y, message.pos.z = unit.x, unit.y, 12.0
        message.radius, message.build_progress, message.is_flying = 0.5, 1.0, kind.flies
        message.health, message.health_max = unit.health, kind.health
        message.shield, message.shield_max = unit.shield, kind.shield
        message.energy, message.energy_max = unit.energy, 200.0 if kind.flies else 0.0
        message.weapon_cooldown = unit.cooldown
        if unit.order is not None:
            message.orders.add(ability_id=unit.order[0])

    def on_query(self, _):
        from s2clientprotocol import query_pb2

        return query_pb2.ResponseQuery()

    def on_available_maps(self, _):
        return self.api.ResponseAvailableMaps(local_map_paths=["SMAC_Maps/32x32_flat.SC2Map"])

    def on_save_replay(self, _):
        return self.api.ResponseSaveReplay(data=b"not a replay: made by the test server")

    def on_quit(self, _):
        self.status = self.api.quit
        return self.api.ResponseQuit()


def main() -> None:
    """Serve one client as the game would; ends when it quits or goes away."""
    from marlgpt_training.environments.smacv2_package import load_messages
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.server import serve

    parser = argparse.ArgumentParser()
    parser.add_argument("-listen", default="127.0.0.1")
    parser.add_argument("-port", type=int, required=True)
    args, _ = parser.parse_known_args()
    load_messages()
    from s2clientprotocol import sc2api_pb2

    def handle(connection) -> None:
        game = Game()
        try:
            while game.status != sc2api_pb2.quit:
                # pysc2 sends its bytes as text frames, which the game takes as well.
                request = sc2api_pb2.Request.FromString(connection.recv(decode=False))
                connection.send(game.answer(request).SerializeToString())
        except ConnectionClosed:
            pass
        server.shutdown()

    with serve(handle, args.listen, args.port, max_size=None, compression=None) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
