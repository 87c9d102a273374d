"""Score lip-sync: python -m lipsync_jax.evaluate --shards SHARDS --out DIR"""

import sys

from lipsync_jax.evaluation.runner import main

if __name__ == '__main__':
  sys.exit(main())
