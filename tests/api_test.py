"""The public names of the package, and the three forms of a job's options."""

import dataclasses
import importlib
import inspect
import subprocess
import sys

import pytest

import lipsync_jax
from lipsync_jax import sync
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.inference import cli
from lipsync_jax.inference.options import RENAMED, SyncOptions


@pytest.mark.parametrize(
  'name, module, original',
  [
    ('FaceDetector', 'faces.detector', 'FaceDetector'),
    ('LipSyncError', 'common.errors', 'LipSyncError'),
    ('Cancelled', 'common.errors', 'Cancelled'),
    ('Progress', 'inference.report', 'Progress'),
    ('Session', 'inference.session', 'Session'),
    ('SyncReport', 'inference.report', 'SyncReport'),
    ('SyncError', 'inference.options', 'SyncError'),
    ('SyncOptions', 'inference.options', 'SyncOptions'),
    ('Weights', 'weights.safetensors_file', 'Weights'),
    ('build_model', 'models.registry', 'build_model'),
    ('load_weights', 'weights.convert', 'load_any'),
    ('sync_video', 'sync', 'sync'),
  ],
)
def test_public_name(name, module, original):
  owner = importlib.import_module(f'lipsync_jax.{module}')
  assert getattr(lipsync_jax, name) is getattr(owner, original)
  assert name in lipsync_jax.__all__ and name in dir(lipsync_jax)


def test_sync_is_the_module_and_unknown_names_are_errors():
  assert lipsync_jax.sync is sync
  with pytest.raises(AttributeError, match='no attribute'):
    _ = lipsync_jax.nothing


def test_import_loads_no_library():
  code = (
    'import sys, lipsync_jax; '
    'sys.exit(len({"numpy", "jax", "cv2", "av"} & set(sys.modules)))'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_signature_options_and_flags_agree():
  signature = inspect.signature(sync.sync).parameters
  fields = dataclasses.fields(SyncOptions)
  arguments = [name for name in signature if name != 'renamed']
  assert sorted(arguments) == sorted(field.name for field in fields)
  for field in fields:
    if field.name != 'face':
      assert signature[field.name].default == field.default, field.name
  flags = {action.dest for action in cli.build_parser()._actions}
  assert {field.name for field in fields} <= flags


@pytest.mark.parametrize('old, new', RENAMED.items())
def test_renamed_options(old, new, capsys):
  words = ['--face', 'f.mp4', f'--{old}']
  assert cli.parse_options(words) == {'face': 'f.mp4', new: True}
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and new.replace('_', '-') in line
  with pytest.raises(LipSyncError, match=new):
    sync.sync('f.mp4', **{old: True})


def test_unknown_option_is_named():
  with pytest.raises(LipSyncError, match="found 'loudness'"):
    sync.sync('f.mp4', loudness=3)
