"""Which frames of a video are sampled, by the times at which they are shown."""

import numpy as np

EPSILON = 1e-6  # seconds; times come from integers in units of 1/1000 s or finer


def sample(
    times: list[float], max_frames: int, fps: float | None
) -> tuple[list[int], tuple[float, ...]]:
    """(indices of the sampled frames, seconds from the first one at which each is on screen).

    `times` are those at which the frames of the video begin, ascending. The instants are evenly
    spaced, the first and the last frame included. At a constant frame rate the nearest frame is
    taken; at a variable one the frame that is on screen, which may be the same several times. The
    seconds are those nearest to the instants at which the frame is on screen.
    """
    begin = np.asarray(times, dtype=np.float64)
    count, seconds = len(begin), begin[-1] - begin[0]
    wanted = min(max_frames, count, *([max(2, int(seconds * fps) + 1)] if fps else []))
    wanted -= wanted % 2 if wanted > 1 else 0
    instants = np.linspace(begin[0], begin[-1], wanted)
    even = np.linspace(begin[0], begin[-1], count)
    half_a_frame = seconds / max(count - 1, 1) / 2
    if np.abs(begin - even).max() <= half_a_frame + EPSILON:
        indices = np.linspace(0, count - 1, wanted).round().astype(int)
    else:
        indices = np.searchsorted(begin, instants + EPSILON, side="right") - 1
    end = np.append(begin[1:], begin[-1])
    shown = np.clip(instants, begin[indices], end[indices]) - begin[0]
    return indices.tolist(), tuple(shown.tolist())
