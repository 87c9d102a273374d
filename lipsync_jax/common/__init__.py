"""What all packages share: errors, files, caches, memory, threads, commands.

Every error of the package derives from `errors.LipSyncError`. `atomic_file`
writes files that appear whole or not at all. Nothing here imports another
package of lipsync_jax.
"""
