"""High dynamic range (PQ and HLG of ITU-R BT.2100) shown in the standard range of sRGB."""

import numpy as np
from av import VideoFrame
from PIL import Image

PQ, HLG = 16, 18  # AVColorTransferCharacteristic: SMPTE ST 2084, ARIB STD-B67
HDR_TRANSFERS = (PQ, HLG)
WHITE = 203.0  # cd/m2 of diffuse white, ITU-R BT.2408
PEAK = 1000.0  # cd/m2 of the brightest highlight that is kept apart from white
KNEE = 0.3  # of white; up to there nothing is compressed
BT2020_NCL = 9  # AVColorSpace
# From BT.2020 primaries to those of sRGB, linear light (ITU-R BT.2087).
TO_SRGB = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    dtype=np.float32,
)
LUMINANCE = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)  # of BT.2020


def tone_mapped(frame: VideoFrame, transfer: int) -> Image.Image:
    """An HDR frame in sRGB: linear light, highlights compressed, primaries converted."""
    colours = {"src_colorspace": BT2020_NCL, "dst_colorspace": 5}
    signal = frame.reformat(format="rgb48le", **colours).to_ndarray().astype(np.float32) / 65535
    light = pq_light(signal) if transfer == PQ else hlg_light(signal)
    light = compressed(light / WHITE) @ TO_SRGB.T
    return Image.fromarray((srgb(light.clip(0, 1)) * 255).round().astype(np.uint8))


def pq_light(signal: np.ndarray) -> np.ndarray:
    """Display light in cd/m2 of a PQ signal (H, W, 3) in [0, 1]; BT.2100, table 4."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = signal ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def hlg_light(signal: np.ndarray) -> np.ndarray:
    """Display light in cd/m2 of an HLG signal (H, W, 3) on a display of 1000; BT.2100, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = np.maximum(scene @ LUMINANCE, 1e-6)[..., None]
    return PEAK * luminance**0.2 * scene


def compressed(light: np.ndarray) -> np.ndarray:
    """Light (H, W, 3) in units of white with highlights in [0, 1]: Moebius, as FFmpeg's tonemap."""
    peak = PEAK / WHITE
    a = -KNEE * KNEE * (peak - 1) / (KNEE * KNEE - 2 * KNEE + peak)
    b = (KNEE * KNEE - 2 * KNEE * peak + peak) / (peak - 1)
    bright = light.max(-1, keepdims=True)
    over = np.maximum(bright, KNEE)  # the fraction is only used there
    mapped = (b * b + 2 * b * KNEE + KNEE * KNEE) / (b - a) * (over + a) / (over + b)
    return light * np.where(bright <= KNEE, 1, mapped / over)


def srgb(light: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] as an sRGB signal, IEC 61966-2-1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
