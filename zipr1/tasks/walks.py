"""Videos that a game engine records while the camera walks and turns: the source of ego.py.

Source and licence: the engine ViZDoom (MIT) with the Freedoom maps of its wheel (BSD 3-clause), run
without a window and without monsters.
Splits: by map: Freedoom 2 for train, different maps of Freedoom 1 for the others.
Sample: recordings("freedoom1.wad", "e2m1")[2].action -> turn left
"""

import contextlib
import math
import tempfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from zipr1.common.errors import RunError

from .draw import pick
from .photos import wheel

if TYPE_CHECKING:
    from vizdoom import DoomGame  # imported when the engine is started

SIDE, FRAMES, WIDE = 96, 8, 128  # recordings are WIDE pixels wide, of which a scene shows SIDE
MAPS: dict[str, tuple[tuple[str, str], ...]] = {
    # Without the maps with little room to walk, where recording takes seconds.
    "train": tuple(
        ("freedoom2.wad", f"map{number:02d}")
        for number in (1, 3, 4, 5, 6, 7, 8, 9, 12, 14, 17, 18, 20, 21, 22, 25, 26, 29)
    ),
    "val": tuple(("freedoom1.wad", f"e1m{number}") for number in range(2, 8)),
    "test": tuple(
        ("freedoom1.wad", level)
        for level in ("e2m1", "e2m2", "e2m3", "e2m4", "e2m5", "e2m6", "e2m7", "e3m4", "e3m5")
    ),
    "sealed": tuple(
        ("freedoom1.wad", level)
        for level in ("e2m8", "e2m9", "e3m6", "e3m7", "e4m1", "e4m2", "e4m3", "e1m9")
    ),
}
RECORDINGS_PER_MAP = 28  # a multiple of the number of actions
ACTIONS = ("forward", "backward", "turn left", "turn right")
WALK, TICS = 30, 3  # requested speed; engine steps between two frames of a walk
LEAST_STEP = 14  # map units between two frames of a walk; less means that a wall is in the way
LEAST_SPEED = 4  # map units per engine step when a walk begins
ATTEMPTS = 4000


@dataclass(frozen=True)
class Recording:
    """Frames as the engine drew them, and the poses of the camera that it reports."""

    action: str
    frames: np.ndarray  # (FRAMES, SIDE, WIDE, 3)
    poses: np.ndarray  # (FRAMES, 3): x, y, angle in degrees, anticlockwise

    def mirrored(self) -> "Recording":
        """The same walk in a mirror: the world of y turned into -y."""
        swapped = {"turn left": "turn right", "turn right": "turn left"}.get(
            self.action, self.action
        )
        return Recording(swapped, self.frames[:, :, ::-1], self.poses * (1, -1, -1))


def start_engine(wad: str, level: str, folder: str) -> "DoomGame":
    """Starts a map without monsters, weapon or status display; engine settings go to `folder`."""
    data = wheel("vizdoom")
    import vizdoom

    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(data / wad))
    game.set_doom_map(level)
    # By default the engine writes its settings to the current folder.
    game.set_doom_config_path(str(Path(folder) / "engine.ini"))
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_render_hud(False)
    game.set_render_weapon(False)
    game.set_render_crosshair(False)
    game.set_render_messages(False)
    game.set_available_buttons(
        [vizdoom.Button.MOVE_FORWARD_BACKWARD_DELTA, vizdoom.Button.TURN_LEFT_RIGHT_DELTA]
    )
    names = vizdoom.GameVariable
    pose = [names.POSITION_X, names.POSITION_Y, names.ANGLE]
    game.set_available_game_variables([*pose, names.VELOCITY_X, names.VELOCITY_Y])
    game.set_objects_info_enabled(True)
    game.set_episode_timeout(0)
    game.set_seed(zlib.crc32(f"{wad}/{level}".encode()))
    # The last two disable messages over the image.
    game.add_game_args("-nomonsters +sv_cheats 1 +movebob 0 +cl_showsecretmessage 0 +con_midtime 0")
    with contextlib.chdir(folder):  # the engine makes a folder of its own wherever it starts
        game.init()
    enter(game)
    return game


def enter(game: "DoomGame") -> None:
    """Begins the map anew."""
    game.new_episode()
    game.make_action([0, 0], 14)  # the engine ignores the first commands
    game.send_game_command("god")


def speed(game: "DoomGame") -> tuple[float, float]:
    """Map units per engine step, along x and along y."""
    return tuple(game.get_state().game_variables[3:])


def record(game: "DoomGame", rng: np.random.Generator, action: str) -> Recording | None:
    """One recording from the current place; None where a wall, a step or darkness prevents it."""
    frames, poses = [], []
    walk = {"forward": WALK, "backward": -WALK}.get(action, 0)
    turn = {"turn left": -1, "turn right": 1}.get(action, 0) * float(rng.uniform(4, 6.5))
    if walk:
        game.make_action([walk, 0], 8)  # up to speed
        if game.is_episode_finished() or np.hypot(*speed(game)) < LEAST_SPEED:
            return None
    for _ in range(FRAMES):
        game.make_action([walk, turn], TICS if walk else 1)
        if game.is_episode_finished():  # the walk went through the exit of the map
            return None
        state = game.get_state()
        poses.append(state.game_variables[:3].copy())
        if walk and len(poses) > 1:
            (x0, y0, angle), (x1, y1, _) = poses[-2], poses[-1]
            heading = math.radians(angle)
            step = (x1 - x0) * math.cos(heading) + (y1 - y0) * math.sin(heading)
            if step * np.sign(walk) < LEAST_STEP:
                return None
        frames.append(state.screen_buffer.copy())
    recording = np.stack(frames)
    changes = np.abs(np.diff(recording.astype(np.int16), axis=0)).mean()
    if recording.mean() < 40 or recording.std() < 20 or changes < 6:  # dark, bare, or a blank wall
        return None
    small = [
        np.asarray(Image.fromarray(frame).resize((WIDE, SIDE), Image.Resampling.BOX))
        for frame in frames
    ]
    return Recording(action, np.stack(small), np.stack(poses))


def explore(game: "DoomGame", rng: np.random.Generator) -> tuple[Recording, ...]:
    """RECORDINGS_PER_MAP recordings of the current map, with the actions in turn."""
    places = sorted(
        (round(thing.position_x), round(thing.position_y)) for thing in game.get_state().objects
    )
    made: list[Recording] = []
    for _ in range(ATTEMPTS):
        if game.is_episode_finished():
            enter(game)
        game.make_action([0, 0], 40)  # stop first: the engine keeps the speed through a warp
        if game.is_episode_finished():
            continue
        x, y = pick(rng, places)  # where the map has an object, there is floor
        game.send_game_command(f"warp {x} {y}")
        game.make_action([0, float(rng.integers(0, 360))])
        game.make_action([0, 0], 3)
        recording = (
            None
            if game.is_episode_finished()
            else record(game, rng, ACTIONS[len(made) % len(ACTIONS)])
        )
        if recording is not None:
            made.append(recording)
            if len(made) == RECORDINGS_PER_MAP:
                return tuple(made)
    raise RunError(f"recorded only {len(made)} videos of a map in {ATTEMPTS} attempts")


@cache
def recordings(wad: str, level: str) -> tuple[Recording, ...]:
    """The recordings of one map: a function of its name, with a fresh engine and a fixed seed."""
    with tempfile.TemporaryDirectory() as folder:
        game = start_engine(wad, level, folder)
        try:
            return explore(game, np.random.default_rng(zlib.crc32(f"{wad}/{level}".encode())))
        finally:
            game.close()
