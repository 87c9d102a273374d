"""Files of tensors from others: all that are right are read exactly, all
that are wrong are refused in one line, and none of them does anything."""

import collections
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from lipsync_jax.weights import pickle_types, readers, writers
from lipsync_jax.weights.pickle_types import UnsafeFile
from lipsync_jax.weights.writers import Call, Global

GADGETS = [
  ('os', 'system', ('touch CANARY',)),
  ('posix', 'system', ('touch CANARY',)),
  ('builtins', 'eval', ("open('CANARY', 'w')",)),
  ('builtins', 'exec', ("open('CANARY', 'w')",)),
  ('__builtin__', 'eval', ('data',)),
  ('builtins', 'getattr', ('', 'join')),
  ('builtins', '__import__', ('os',)),
  ('builtins', 'open', ('CANARY', 'w')),
  ('io', 'FileIO', ('CANARY', 'w')),
  ('subprocess', 'Popen', (('touch', 'CANARY'),)),
  ('ctypes', 'CDLL', ('libc.so.6',)),
  ('importlib', 'import_module', ('os',)),
  ('logging', 'FileHandler', ('CANARY',)),
  ('numpy.testing._private.utils', 'runstring', ("open('CANARY','w')", {})),
  ('numpy', 'load', ('CANARY',)),
  ('torch', 'load', ('CANARY',)),
  ('pickle', 'loads', (b'.',)),
  ('runpy', 'run_path', ('CANARY',)),
  ('operator', 'attrgetter', ('system',)),
  ('functools', 'partial', (Global('os', 'system'), 'touch CANARY')),
  ('torch.hub', 'load', ('CANARY',)),
  ('lipsync_jax.weights.writers', 'write_pth', ('CANARY', {})),
  ('lipsync_jax.weights.pickle_types', 'refuse', ('x',)),
]
# In a process of its own: any of these while files are read is a failure.
WATCHED_PROGRAM = """
import encodings.cp437, encodings.utf_8, io, pathlib, sys, warnings
from lipsync_jax.weights import readers
FORBIDDEN = ('os.', 'subprocess', 'exec', 'compile', 'ctypes', 'socket')
FORBIDDEN += ('import', 'pickle', 'shutil', 'marshal')
paths = sorted(pathlib.Path(sys.argv[1]).iterdir())
readers.read_tree(paths.pop(0))  # lets zipfile import what it needs
events = []
watching = False

def watch(event, args):
  if watching and event.startswith(FORBIDDEN):
    events.append((event, str(args)[:200]))

sys.addaudithook(watch)
for path in paths:
  try:
    watching = True
    readers.read_tree(path)
    sys.exit(f'read {path.name}')
  except ValueError:
    pass
  finally:
    watching = False
assert not events, events
assert not {'torch', 'antigravity', 'jax'} & sys.modules.keys()
print(len(paths))
"""


def tree() -> dict:
  rng = np.random.default_rng(0)
  return {
    'state_dict': {
      'a.weight': rng.standard_normal((4, 3, 2, 2)).astype(np.float32),
      'a.bias': rng.standard_normal(4).astype(np.float16),
      'a.double': rng.standard_normal((2, 3)),
      'a.count': np.array(12345678901, np.int64),
      'a.empty': np.zeros((0, 3), np.float32),
    },
    'optimizer': {'state': {0: {'exp_avg': np.ones((4, 3), np.float32)}}},
    'global_step': 7,
    'rate': None,
  }


def same(found: dict, expected: dict):
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    if isinstance(value, dict):
      same(found[key], value)
    elif isinstance(value, np.ndarray):
      assert found[key].dtype == value.dtype, key
      assert found[key].shape == value.shape, key
      np.testing.assert_array_equal(found[key], value)
    else:
      assert found[key] == value, key


def pickled(x, protocol: int = 2) -> bytes:
  file = io.BytesIO()
  writers.write_pickle(file, x, protocol)
  return file.getvalue()


def in_zip(data: bytes, compress=zipfile.ZIP_STORED, extra=()) -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', compress) as archive:
    archive.writestr('archive/data.pkl', data)
    for name, content in extra:
      archive.writestr(name, content)
  return file.getvalue()


def in_legacy(data: bytes) -> bytes:
  head = pickled(pickle_types.MAGIC) + pickled(pickle_types.VERSION)
  return head + pickled({'little_endian': True}) + data + pickled([])


def refused(path, data: bytes) -> str:
  path.write_bytes(data)
  with pytest.raises(UnsafeFile) as error:
    readers.read_tree(path)
  message = str(error.value)
  assert '\n' not in message and str(path) in message
  return message


@pytest.fixture
def audited(monkeypatch, tmp_path):
  """An empty folder to stand in, where no canary may appear."""
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  assert not (tmp_path / 'CANARY').exists()


def test_round_trip_through_our_own_writers(tmp_path):
  path = tmp_path / 'named.anyhow'
  expected = {k: v for k, v in tree().items() if k != 'optimizer'}
  for write in (writers.write_pth, writers.write_legacy):
    write(path, tree())
    same(readers.read_tree(path), expected)
  flat = tree()['state_dict']
  writers.write_pdparams(path, flat, {k: 'p' for k in flat})
  found = readers.read_tree(path)
  assert found.pop('StructuredToParameterName@@').keys() == flat.keys()
  same(found, flat)
  assert os.listdir(tmp_path) == ['named.anyhow']  # no parts left


def test_paddle_files_are_plain_pickles_of_arrays(tmp_path):
  flat = tree()['state_dict']
  writers.write_pdparams(tmp_path / 'w', flat, dict.fromkeys(flat, 'p'))
  with open(tmp_path / 'w', 'rb') as file:  # as paddle.load reads it
    found = pickle.load(file, encoding='latin1')
  del found['StructuredToParameterName@@']
  same(found, flat)


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_files_of_paddle(tmp_path, protocol):
  """As paddle.save writes them: flat, nested with names, ordered."""
  a, b = np.ones((2, 3), np.float32), np.arange(4.0).astype(np.float32)
  half = np.array([0x3F80, 0x4000], np.uint16)  # 1 and 2 in bfloat16
  fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
  saved = {
    'netG': collections.OrderedDict(x=('conv_0.w_0', a), y=('conv_0.b_0', b)),
    'netD': {'h': half, 'f': fortran, 's': np.float32(3)},
    'optimizer_G': {'moment': ('m', a)},
    'epoch': 3,
  }
  path = tmp_path / 'w.pdparams'
  path.write_bytes(pickle.dumps(saved, protocol))
  found = readers.read_tree(path)
  assert found['epoch'] == 3 and 'optimizer_G' not in found
  same(found['netG'], {'x': a, 'y': b})
  np.testing.assert_array_equal(found['netD']['h'], np.float32([1, 2]))
  np.testing.assert_array_equal(found['netD']['f'], fortran)
  assert found['netD']['s'] == 3


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_files_of_torch(tmp_path, zipped):
  torch = pytest.importorskip('torch')
  base = torch.arange(24.0).reshape(4, 6)
  net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  optimizer = torch.optim.Adam(net.parameters())
  net(torch.ones(2, 3, 5, 5)).sum().backward()
  optimizer.step()
  saved = {
    'state_dict': net.state_dict(),  # carries _metadata
    'views': {'t': base.T, 'rows': base[1:3, ::2], 'same': base},
    'parameter': {'p': torch.nn.Parameter(torch.ones(3))},
    'types': {
      'half': torch.ones(3).half(),
      'brain': torch.tensor([1.5, -2]).bfloat16(),
      'bytes': torch.tensor([1, 2], dtype=torch.uint8),
      'flags': torch.tensor([True, False]),
    },
    'optimizer': optimizer.state_dict(),
  }
  path = tmp_path / 'w.pth'
  torch.save(saved, path, _use_new_zipfile_serialization=zipped)
  found = readers.read_tree(path)
  assert 'optimizer' not in found
  for part in found:
    for name, value in saved[part].items():
      value = value.float() if name == 'brain' else value
      np.testing.assert_array_equal(found[part][name], value.detach().numpy())


@pytest.mark.parametrize('legacy', [False, True])
def test_torch_loads_what_we_write(tmp_path, legacy):
  torch = pytest.importorskip('torch')
  write = writers.write_legacy if legacy else writers.write_pth
  write(tmp_path / 'w.pth', tree())
  found = torch.load(tmp_path / 'w.pth', weights_only=True)
  as_numpy = {k: v.numpy() for k, v in found['state_dict'].items()}
  same(as_numpy, tree()['state_dict'])


@pytest.mark.parametrize(
  'gadget', GADGETS, ids=[f'{m}.{n}' for m, n, _ in GADGETS]
)
def test_gadgets_are_refused_by_name(audited, gadget):
  module, name, args = gadget
  function = Global(module, name)
  for x in (
    Call(function, args),
    {'state_dict': Call(function, args)},
    {'a': function},
    {'a': Call(function, (), ({}, {'x': 1}))},
  ):
    for data in (pickled(x), pickled(x, 4)):
      for wrapped in (data, in_zip(data), in_legacy(data)):
        message = refused(audited / 'w.pth', wrapped)
        assert f'{module}.{name}'[:50] in message


class Plain:
  pass


class Reduces:
  def __reduce__(self):
    return os.system, ('touch CANARY',)


class Extends(dict):
  pass


@pytest.mark.parametrize('protocol', range(6))
def test_objects_of_real_pickles_are_refused(audited, protocol):
  """NEWOBJ, BUILD, INST, copyreg and whatever else pickle itself writes."""
  cycle = []
  cycle.append(cycle)
  objects = [Plain(), Reduces(), Extends(a=1), {1, 2}, 1j, cycle]
  objects += [np.array([{}, Plain()], object), np.zeros(2, 'i4,f4'), print]
  objects += [range(3), bytearray(b'x'), os.path.join, UnsafeFile('x')]
  for x in objects:
    for data in (pickle.dumps(x, protocol), pickle.dumps({'a': x}, protocol)):
      refused(audited / 'w', data)
      refused(audited / 'w', in_zip(data))


def op(*parts: bytes) -> bytes:
  return b'\x80\x02' + b''.join(parts) + b'.'


NDARRAY = b'cnumpy\nndarray\n'
STREAMS = {
  'deep': op(b']' * 20_000, b'a' * 19_999),
  'deep tuple as key': op(b'}', b')', b'\x85' * 20_000, b'Ns'),
  'laughs': op(
    b']q\x00',
    *(
      b']q'
      + bytes([i + 1])
      + b'('
      + b'h'
      + bytes([i])
      + b'h'
      + bytes([i])
      + b'e'
      for i in range(60)
    ),
  ),
  'laughing key': op(
    b'})q\x00',
    *(
      b'h' + bytes([i]) + b'h' + bytes([i]) + b'\x86q' + bytes([i + 1])
      for i in range(60)
    ),
    b'Ns',
  ),
  'huge bytes': op(b'\x8e' + struct.pack('<Q', 1 << 62)),
  'huge text': op(b'X\xff\xff\xff\xff'),
  'huge frame': b'\x80\x04\x95' + struct.pack('<Q', 1 << 62) + b'N.',
  'huge int': op(b'\x8b\xff\xff\xff\x7f'),
  'negative length': op(b'\x8b\xff\xff\xff\xff'),
  'copies': op(
    b'X\x00\x00\x10\x00' + b'x' * (1 << 20) + b'q\x000',
    b'(' + b'c_codecs\nencode\n' + b'h\x00X\x06\x00\x00\x00latin1\x86R' * 1000,
    b't',
  ),
  'build on a function': op(NDARRAY, b'}b'),
  'build on a class': op(b'ctorch\nFloatStorage\n', b'N}\x86b'),
  'call of an array': op(NDARRAY, b')R'),
  'persistent text': op(b'Pos.system\n'),
  'persistent forgery': op(b'(X\x07\x00\x00\x00storageNNNNtQ'),
  'inst': op(b'(ios\nsystem\n'),
  'obj': op(b'(cos\nsystem\nX\x01\x00\x00\x00xo'),
  'newobj': op(b'ccollections\nOrderedDict\n)\x81'),
  'newobj_ex': op(b'ccollections\nOrderedDict\n)}\x92'),
  'extension': op(b'\x82\x01'),
  'buffer': b'\x80\x05\x97.',
  'dotted': b'\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.',
  'nothing': op(),
  'underflow': op(b'R'),
  'no mark': op(b't'),
  'no memo': op(b'h\x07'),
  'a number': op(b'K\x01'),
  'append to a tuple': op(b')Na'),
  'item of a list': op(b']NNs'),
  'half a pair': op(b'}(Nu'),
  'text protocol': b"(dp0\nS'a'\np1\nI1\ns.",
}


@pytest.mark.parametrize('stream', STREAMS.values(), ids=STREAMS)
def test_hand_made_streams_are_refused(audited, stream):
  refused(audited / 'w', stream)
  refused(audited / 'w', in_zip(stream))


@pytest.mark.parametrize(
  ('offset', 'shape', 'stride'),
  [
    (0, (1 << 40,), (0,)),  # a terabyte of one number
    (0, (5,), (1,)),
    (1, (4,), (1,)),
    (0, (2, 2), (1, 3)),
    (-1, (1,), (1,)),
    (0, (2,), (-1,)),
    (0, (1 << 62, 1 << 62), (0, 0)),
    (0, (2,), ()),
    (0, ((2,),), (1,)),
    (0, (True,), (1,)),
    (0, [2], [1]),
    (0, (1,) * 40, (1,) * 40),
    ('0', (1,), (1,)),
  ],
)
def test_tensors_stay_in_their_storage(tmp_path, offset, shape, stride):
  kind = Global('torch', 'FloatStorage')
  pid = writers.Persistent(('storage', kind, '0', 'cpu', 4))
  rebuild = Global('torch._utils', '_rebuild_tensor_v2')

  def file(*geometry):
    tensor = Call(rebuild, (pid, *geometry, False, {}))
    return in_zip(pickled({'a': tensor}), extra=[('archive/data/0', bytes(16))])

  refused(tmp_path / 'w', file(offset, shape, stride))
  (tmp_path / 'w').write_bytes(file(0, (2, 2), (1, 2)))  # a transpose is fine
  assert readers.read_tree(tmp_path / 'w')['a'].shape == (2, 2)


@pytest.mark.parametrize('code', ['O', 'V8', '>f4', 'U4', 'M8', 'c8', ''])
def test_arrays_of_other_types_are_refused(tmp_path, code):
  array = writers.paddle_array(np.zeros(2))
  order = '>' if code.startswith('>') else '<'
  dtype = Call(
    Global('numpy', 'dtype'),
    (code.lstrip('>') if code == '>f4' else code, False, True),
    (3, order, None, None, None, -1, -1, 0),
  )
  state = (1, (2,), dtype, False, bytes(16 if code != '>f4' else 8))
  refused(
    tmp_path / 'w', pickled({'a': Call(array.function, array.args, state)}, 4)
  )


def test_zip_tricks(tmp_path):
  path, good = tmp_path / 'w.pth', pickled({'a': 1})
  assert 'compressed' in refused(path, in_zip(good, zipfile.ZIP_DEFLATED))
  with pytest.warns(UserWarning):
    double = in_zip(good, extra=[('archive/data.pkl', good)])
  assert 'two entries' in refused(path, double)
  assert 'not of PyTorch' in refused(
    path, in_zip(good, extra=[('b/data.pkl', good)])
  )
  script = in_zip(good, extra=[('archive/constants.pkl', good)])
  assert 'TorchScript' in refused(path, script)
  big = in_zip(good, extra=[('archive/byteorder', b'big')])
  assert 'big-endian' in refused(path, big)
  liar = in_zip(good)  # claims a size of 4 GB in its directory
  at = liar.index(b'PK\x01\x02')
  liar = liar[: at + 20] + b'\xfe\xff\xff\xff' * 2 + liar[at + 28 :]
  refused(path, liar)
  spoilt = in_zip(good, extra=[('archive/x', b'y')]).replace(
    good, good[:-2] + b'\x02.'
  )
  refused(path, spoilt)  # CRC


def test_mistaken_files_are_named(tmp_path):
  path = tmp_path / 'wav2lip.pth'
  for data, word in (
    (b'', 'empty'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'Git LFS'),
    (b'\n<!DOCTYPE html><html>Sign in</html>', 'web page'),
    (b'{"error": "not found"}', 'JSON'),
    (b'\x1f\x8b\x08\x00', 'gzip'),
    (bytes(range(200, 255)), 'no known format'),
    (in_zip(b'').replace(b'data.pkl', b'data.txt'), 'not of PyTorch'),
  ):
    assert word in refused(path, data)
  writers.write_pth(path, tree())
  whole = path.read_bytes()
  for length in (len(whole) - 30, len(whole) // 2, 100, 10, 3):
    assert refused(path, whole[:length])
  writers.write_legacy(path, tree())
  assert 'download it again' in refused(path, path.read_bytes()[:-30])
  with pytest.raises(UnsafeFile, match='folder'):
    readers.read_tree(tmp_path)
  with pytest.raises(UnsafeFile, match='no file'):
    readers.read_tree(tmp_path / 'absent')
  os.mkfifo(tmp_path / 'pipe')
  with pytest.raises(UnsafeFile, match='pipe'):
    readers.read_tree(tmp_path / 'pipe')


def mutate(data: bytes, rng: random.Random) -> bytes:
  data = bytearray(data)
  for _ in range(rng.choice((1, 1, 2, 8))):
    at = rng.randrange(len(data))
    match rng.randrange(5):
      case 0:
        data[at] ^= 1 << rng.randrange(8)
      case 1:
        data[at] = rng.choice(b'\x00\xff()]}.01Rbtuq\x80\x8a\x93cQ')
      case 2:
        del data[at : at + rng.randrange(1, 20)]
      case 3:
        data[at:at] = data[at : at + rng.randrange(1, 40)]
      case 4:
        data[at : at + 4] = struct.pack(
          '<I', rng.choice((0, 1 << 31, 2**32 - 1))
        )
    data = data or bytearray(b'.')
  return bytes(data)


def fuzz(folder, count: int):
  seeds = []
  for i, write in enumerate((writers.write_pth, writers.write_legacy)):
    write(folder / str(i), tree())
    seeds.append((folder / str(i)).read_bytes())
  flat = tree()['state_dict']
  writers.write_pdparams(folder / '2', flat, dict.fromkeys(flat, 'p'))
  seeds.append((folder / '2').read_bytes())
  seeds += [pickle.dumps({'netG': flat, 'epoch': 1}, p) for p in (2, 4)]
  rng = random.Random(20261122)
  refusals = 0
  for i in range(count):
    (folder / 'w').write_bytes(mutate(seeds[i % len(seeds)], rng))
    try:
      readers.read_tree(folder / 'w')
    except UnsafeFile as error:
      assert '\n' not in str(error)
      refusals += 1
  return refusals


def test_mutated_files_load_or_are_refused(audited):
  assert fuzz(audited, 500) > 250


@pytest.mark.slow
def test_many_mutated_files_load_or_are_refused(audited):
  count = int(os.environ.get('LIPSYNC_JAX_FUZZ', '2500'))
  assert fuzz(audited, count) > count / 2


def test_attacks_do_nothing_in_a_bare_process(tmp_path):
  """Under an audit hook, which the shape checks of pytest would set off."""
  folder = tmp_path / 'files'
  folder.mkdir()
  writers.write_pth(folder / '0', tree())
  streams = list(STREAMS.values())
  for module, name, args in [*GADGETS, ('antigravity', 'geohash', ())]:
    streams.append(pickled({'a': Call(Global(module, name), args)}))
  streams += [pickle.dumps(Reduces(), p) for p in range(2, 6)]
  for i, stream in enumerate(streams):
    for wrap in (bytes, in_zip, in_legacy):
      (folder / f'{wrap.__name__} {i}').write_bytes(wrap(stream))
  done = subprocess.run(
    [sys.executable, '-c', WATCHED_PROGRAM, folder],
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert done.stdout.strip() == str(3 * len(streams)), done.stderr
  assert os.listdir(tmp_path) == ['files']
