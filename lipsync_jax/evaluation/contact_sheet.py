"""Draw moments of videos: a row a video, a column a moment.

python scripts/strips.py OUT.jpg VIDEO [VIDEO …] --at 0.5 1.2 [--box X Y W H]
"""

import argparse
import sys

import av
import cv2
import numpy as np

SIDE = 160  # pixels, height of a picture


def moments(path: str, times: list[float], box: list[int] | None):
  """The frames of a video that are shown at these seconds, cut and scaled."""
  found, wanted = {}, sorted(times)
  with av.open(path) as file:
    for frame in file.decode(video=0):
      while wanted and frame.time >= wanted[0] - 1e-3:
        picture = frame.to_ndarray(format='bgr24')
        if box:
          x, y, w, h = box
          picture = picture[y : y + h, x : x + w]
        width = round(SIDE * picture.shape[1] / picture.shape[0])
        found[wanted.pop(0)] = cv2.resize(
          picture, (width, SIDE), interpolation=cv2.INTER_AREA
        )
      if not wanted:
        return [found[time] for time in times]
  raise ValueError(f'{path}: expected a frame at {wanted[0]} s, found its end')


def main(argv: list[str]) -> int:
  """Write the picture."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('out')
  parser.add_argument('videos', nargs='+', metavar='VIDEO')
  parser.add_argument('--at', nargs='+', type=float, required=True)
  parser.add_argument('--box', nargs=4, type=int, metavar=('X', 'Y', 'W', 'H'))
  args = parser.parse_args(argv)
  rows = [np.hstack(moments(v, args.at, args.box)) for v in args.videos]
  return 0 if cv2.imwrite(args.out, np.vstack(rows)) else 1


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
