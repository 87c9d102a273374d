"""Opens the weights and the face of a job."""

import dataclasses
import sys
from fractions import Fraction

from lipsync_jax.inference import carryover
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import decoder
from lipsync_jax.media.types import Video, View
from lipsync_jax.weights import articulation, convert


def load_weights(
  options: SyncOptions, networks: NetworkCache
) -> convert.Weights | articulation.Articulation:
  """The weights of the renderer that the options choose."""
  if options.uses_mesh:
    return networks.articulation()
  return load_generator(options, networks)


def load_generator(
  options: SyncOptions, networks: NetworkCache
) -> convert.Weights:
  """The weights of the options; the bundled ones, with a note, by default."""
  if options.checkpoint_path is not None:
    return networks.weights(options.checkpoint_path)
  if not convert.DEFAULT_GENERATOR.is_file():
    raise convert.WeightsError(
      '--checkpoint_path is needed: no weights come with this copy; give '
      'wav2lip.pth, wav2lip_hq.pdparams or a .safetensors file of your own'
    )
  weights = networks.weights(convert.DEFAULT_GENERATOR)
  if not options.quiet:
    print(
      f'note: no --checkpoint_path, using {weights.source}', file=sys.stderr
    )
  return weights


def open_video(options: SyncOptions) -> Video:
  """The face's video; a photo, or `static`, is one frame at `fps`."""
  view = View(options.resize_factor, options.rotate, options.crop)
  video = decoder.probe_video(options.face, view)
  video = carryover.lay_over_color(options, video)
  if video.still:
    rate = Fraction(options.fps).limit_denominator(1001)
    return dataclasses.replace(video, rate=rate)
  return dataclasses.replace(video, still=options.static)
