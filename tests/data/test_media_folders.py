"""A folder where a row, or `zipr1 answer`, should name a media file; and a list of frames."""

import json

import data_rows
import pytest
from command_line import run
from data_rows import PUBLISHED, published, write

from zipr1.common.errors import InputError
from zipr1.data.media import MediaError, MissingMedia, read_media
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
ASKED = {"prompt": "What?", "answer": "x"}
RED = "pictures/red.png"
FOLDER = r"{}: a folder; give the file in it. Frames of a video: give them one by one as images"


@pytest.mark.parametrize(
    "media",
    [
        {"image": "pictures"},
        {"video": "pictures/"},
        {"images": [RED, "clips"]},
        {"image": "."},
        {"prompt": [{"role": "user", "content": [{"type": "video", "video": "clips"}]}]},
        {"image": "URI of pictures"},
    ],
)
def test_a_folder_is_no_media_file(root, media):
    if media.get("image") == "URI of pictures":
        media = {"image": (root / "pictures").as_uri()}
    rows = open_rows(write(root / "rows.json", [ASKED | media]))
    with pytest.raises(MediaError, match="row 0: .*" + FOLDER.format("")) as error:
        rows.example(0)
    assert not isinstance(error.value, MissingMedia)


def test_a_folder_in_rows_of_video_r1_and_on_the_command_line(capsys, root):
    row = published(7, *PUBLISHED[1]) | {"path": "clips"}
    file = write(root / "rows.json", [row])
    with pytest.raises(MediaError, match="row 7: .*" + FOLDER.format("clips")):
        open_rows(file).example(0)
    _, out, _ = run(capsys, "data", "check", file, "--json", "--workers", "0")
    assert "clips: a folder; give the file in it" in json.loads(out)["problems"]["broken media"][0]
    status, _, err = run(capsys, "answer", str(root / "clips"), "What?")
    assert status == 2 and "clips: a folder; give the files in it" in err


def test_what_is_no_regular_file(root):
    with pytest.raises(MediaError, match="/dev/null: no regular file"):
        read_media("/dev/null", 4)
    (root / "gone.png").symlink_to(root / "none.png")
    for path in (root / "gone.png", root / RED / "a.png"):
        with pytest.raises(MissingMedia, match="no such file"):
            read_media(path, 4)


@pytest.mark.parametrize(
    "media",
    [
        {"videos": [[RED, RED]]},
        {"prompt": [{"role": "user", "content": [{"type": "video", "video": [RED, RED]}]}]},
        {"images": [[RED, RED]]},
    ],
)
def test_a_list_of_frames_is_no_video(root, media):
    with pytest.raises(InputError, match=r"is \['pic.*; frames of a video: as images, or as one"):
        open_rows(write(root / "rows.json", [ASKED | media])).row(0)


def test_frames_as_videos(root):
    with pytest.raises(InputError, match=r"2 videos: give one at most \(frames: as 'images'\)"):
        open_rows(write(root / "rows.json", [ASKED | {"video": [RED, RED]}])).row(0)
