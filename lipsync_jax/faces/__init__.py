"""Faces: detection, tracks, shots, landmarks, crops, trajectories.

Coordinates are pixels of the full frame; see `landmarks`.
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'crop': ['Crop', 'extract_crop', 'face_crops'],
    'detector': ['FaceDetector'],
    'identity': ['Person', 'choose_person', 'group_people'],
    'landmarks': ['FaceError', 'LANDMARK_IDS'],
    'tracker': ['track_faces'],
    'tracks': ['Analysis', 'Track'],
    'trajectory': ['FaceTrajectory', 'build_trajectory'],
  },
)
