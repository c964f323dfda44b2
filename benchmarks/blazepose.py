"""A teacher of poses: MediaPipe's BlazePose, in an environment of its own, for it needs numpy 1.

    python -m venv teacher && teacher/bin/pip install mediapipe==0.10.21
    teacher/bin/python benchmarks/blazepose.py PICTURE ...

Prints {picture: [[x, y, visibility], ...]} as JSON: COCO's seventeen in pixels, or null where it found nobody.
"""

from __future__ import annotations

import json
import sys

COCO = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""COCO's keypoints among BlazePose's 33."""


def main() -> None:
    import cv2
    import mediapipe  # pyright: ignore[reportMissingImports]

    found = {}
    with mediapipe.solutions.pose.Pose(static_image_mode=True, model_complexity=1) as network:
        for path in sys.argv[1:]:
            read = cv2.imread(path)
            if read is None:
                raise SystemExit(f"error: {path} is no picture that can be read.")
            picture = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
            height, width = picture.shape[:2]
            landmarks = network.process(picture).pose_landmarks
            points = landmarks and [landmarks.landmark[index] for index in COCO]
            found[path] = points and [[point.x * width, point.y * height, point.visibility] for point in points]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
