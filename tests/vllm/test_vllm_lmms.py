"""`engine=vllm` of our model in lmms-eval: the answers and ratios of the transformers engine."""

import av
import numpy as np
import pytest
import vllm_engine as v
from PIL import Image

from zipr1.common.errors import InputError

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", autouse=True)
def installed():
    pytest.importorskip("lmms_eval", reason="pip install 'lmms-eval>=0.7.3,<0.8'")


def made(**arguments):
    from zipr1.evaluation.lmms_model import ZipR1

    return ZipR1(device="cpu", **arguments)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("lmms") / "clip.mp4")
    noise = np.random.default_rng(0).integers(0, 255, (8, 96, 96, 3), dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [{"method": "full"}, {"p": 0.8}, {"method": "topk", "ratio": 0.3}]
)
def test_both_engines_give_the_same_answers_and_ratios(arguments, clip):
    from lmms_requests import ask, image, video

    picture = Image.open(v.SHAPES).convert("RGB")
    contents = [image(picture), [*image(picture), *image(picture.rotate(90))], video(clip)]
    one, other = (
        ask(made(engine=engine, max_frames=4, **arguments), *contents)
        for engine in ("transformers", "vllm")
    )
    assert one == other
    assert all(ratio < 1 for _, ratio, _ in one) == (arguments.get("method") != "full")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"max_pixels": 9000}, "preprocessor_config"), ({"attn_implementation": "sdpa"}, "its own")],
)
def test_what_the_engine_does_not_take_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        made(engine="vllm", **arguments)
