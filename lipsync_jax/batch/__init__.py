"""Many jobs from a manifest: `lipsync batch MANIFEST --out DIR`.

`manifest.read_manifest` turns rows into options; `runner.run_batch` does them
in one session and writes a line of results for each. `beam` and `beam_runner`
do them on Apache Beam, in several processes or on several machines.
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'manifest': ['BatchError', 'Row', 'read_manifest'],
    'runner': ['run_batch'],
  },
)
