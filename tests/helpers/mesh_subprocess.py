"""Run by steps_test in a process of its own, which has eight devices."""

import json
import os
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
import jax

jax.config.update('jax_num_cpu_devices', 8)

from lipsync_jax.training import sharding  # noqa: E402
from tests.training import steps_test  # noqa: E402


def main(stage: str, *shapes: str) -> None:
  devices = jax.devices()
  assert len(devices) == 8
  found = {}
  for shape in shapes:
    data, fsdp = (int(side) for side in shape.split('x'))
    mesh = sharding.make_mesh(data, fsdp, devices[: data * fsdp])
    seen, state = steps_test.run(stage, mesh, count=1, least=64)
    split = [
      x for x in jax.tree.leaves(state.params) if not x.is_fully_replicated
    ]
    found[shape] = {'metrics': seen, 'split': len(split)}
  print(json.dumps(found))


if __name__ == '__main__':
  main(*sys.argv[1:])
