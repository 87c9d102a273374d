"""Segments and webhooks of requests, and the list of jobs."""

import json
import pathlib
import threading
import time

import numpy as np
import pytest

from lipsync_jax.app import jobs, webhooks
from lipsync_jax.common.errors import LipSyncError
from tests.helpers import test_clips
from tests.helpers.webhook_receiver import receiver

pytest.importorskip('starlette', reason='needs the extra [app]')
pytest.importorskip('httpx', reason='needs the extra [app]')
from starlette.testclient import TestClient

from lipsync_jax.app import job_table, server, submission

EXAMPLES = pathlib.Path(jobs.__file__).parent / 'examples'
RATE = 48_000  # of a mix
SPEECH = (EXAMPLES / 'jfk.flac').read_bytes()


@pytest.fixture(scope='module')
def runner(tmp_path_factory):
  limits = jobs.Limits(megabytes=2, minutes=0.5)
  found = jobs.JobRunner(limits, str(tmp_path_factory.mktemp('s') / 'jobs'))
  yield found
  found.close()


@pytest.fixture
def client(runner):
  with TestClient(server.build_app(server.JobTable(runner, 9))) as found:
    yield found
  assert list(runner.folder.iterdir()) == []


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  """One second of a face that does not move."""
  import cv2

  rgb = cv2.imread(str(EXAMPLES / 'mona.jpg'))[::2, ::2, ::-1]
  rgb = np.ascontiguousarray(rgb)
  path = tmp_path_factory.mktemp('video') / 'v.mp4'
  times = test_clips.steady(1, 25)
  test_clips.write_video(path, times, (360, 360), lambda i: rgb)
  return path.read_bytes()


def submit(client, video, files=None, **fields):
  files = {name: (f'{name}.flac', SPEECH) for name in files or ()}
  fields = {
    name: value if isinstance(value, str) else json.dumps(value)
    for name, value in fields.items()
  }
  return client.post(
    '/v2/generate', files={'video': ('v.mp4', video), **files}, data=fields
  )


def wait(client, name: str) -> dict:
  while True:
    found = client.get(f'/v2/generate/{name}').json()
    if found['status'] in job_table.ENDED:
      return found
    time.sleep(0.05)


def read_sound(path) -> np.ndarray:
  """The samples of the first channel."""
  import av

  with av.open(str(path)) as file:
    blocks = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
    assert file.streams.audio[0].rate == RATE
  return np.concatenate(blocks)


def test_lips_move_in_segments_only(client, video, tmp_path):
  rows = [{'start': 0.4, 'end': 0.8, 'audio': 'voice', 'person': '0'}]
  answer = submit(client, video, ['voice'], segments=rows)
  assert answer.status_code == 201, answer.text
  found = wait(client, answer.json()['id'])
  assert found['status'] == 'COMPLETED', found
  assert found['report']['frames'] == 25  # the video is kept to its end
  path = tmp_path / 'o.mp4'
  path.write_bytes(client.get(found['output_url']).content)
  frames = np.stack(test_clips.read_video(path)[1]).astype(int)
  source = tmp_path / 's.mp4'
  source.write_bytes(video)
  before = np.stack(test_clips.read_video(source)[1]).astype(int)
  moved = np.abs(frames - before).mean((1, 2))
  # Encoding changes some pixels everywhere.
  assert moved[11:19].min() > 1.5 * moved[:3].max()
  sound = read_sound(path)
  early, late = sound[: int(0.3 * RATE)], sound[int(0.45 * RATE) :]
  assert np.abs(early).max() < 0.02 < np.abs(late).max()


def test_segments_of_the_jobs_own_sound(client, video):
  rows = [{'start': 0, 'end': 0.2}, {'start': 0.6, 'end': 0.8}]
  answer = submit(client, video, ['audio'], segments=rows)
  assert wait(client, answer.json()['id'])['status'] == 'COMPLETED'


@pytest.mark.parametrize(
  'rows, said',
  [
    ('{', 'segments: expected JSON'),
    ({}, 'segments: expected a list'),
    ([], 'segments: expected a list'),
    ([{'start': 0, 'end': 1}] * 65, 'segments: expected a list'),
    ([{'start': 0}], 'segment 1'),
    ([{'start': 0, 'end': 1}, {'start': 2, 'end': 2}], 'segment 2'),
    ([{'start': -1, 'end': 1}], 'segment 1'),
    ('[{"start": NaN, "end": 1}]', 'segment 1'),
    ([{'start': True, 'end': 2}], 'segment 1'),
    ([{'start': 0, 'end': 1, 'audio': 7}], 'segment 1'),
    ([{'start': 0, 'end': 1, 'file': '/etc/passwd'}], 'segment 1'),
    ([{'start': 0, 'end': 1, 'person': '/etc/passwd'}], 'a person'),
    ([{'start': 0, 'audio': '../../etc/passwd'}], 'expected a file'),
    ([{'start': 0, 'end': 1}], 'audio: expected a file'),
  ],
)
def test_bad_segments_are_one_line(client, runner, video, rows, said):
  answer = submit(client, video, segments=rows)
  line = answer.json()['error']
  assert answer.status_code == 400 and said in line and '\n' not in line
  assert not list(runner.folder.iterdir())


def test_a_large_file_of_a_segment_fails(runner, video):
  rows = [{'start': 0, 'audio': 'voice'}]
  small = jobs.JobRunner(
    jobs.Limits(megabytes=2, minutes=0.1), str(runner.folder) + '-small'
  )
  with TestClient(server.build_app(server.JobTable(small))) as client:
    answer = submit(client, video, ['voice'], segments=rows)
    found = wait(client, answer.json()['id'])
    assert (
      found['status'] == 'FAILED' and 'at most 0.1 minutes' in found['error']
    )
  small.close()


def test_the_webhook_gets_the_job_and_does_not_block_the_next(runner, video):
  released = threading.Event()

  def stall(handler):
    released.wait(60)
    handler.send_response(200)
    handler.end_headers()

  with receiver(stall) as (address, received):
    sender = webhooks.WebhookSender(webhooks.parse_hosts(address), 'secret')
    app = server.build_app(server.JobTable(runner, 9), '', sender)
    with TestClient(app) as client:
      options = {'preview': 0.2}
      names = [
        submit(
          client, video, ['audio'], options=options, webhook=webhook
        ).json()['id']
        for webhook in (f'http://{address}/ended', '')
      ]
      first, second = (wait(client, name) for name in names)
      assert second['status'] == 'COMPLETED'
      assert 'webhook_status' not in second
      assert first['webhook_status'] == 'PENDING'
      while not received:
        time.sleep(0.02)
      [(path, headers, body)] = received
      assert path == '/ended'
      assert headers[webhooks.SIGNATURE] == webhooks.sign('secret', body)
      told = json.loads(body)
      assert told['id'] == names[0] and told['status'] == 'COMPLETED'
      assert told['output_url'] == first['output_url']
      released.set()
      while first['webhook_status'] == 'PENDING':
        first = wait(client, names[0])
      assert first['webhook_status'] == 'DELIVERED'


@pytest.mark.parametrize('url', ['http://127.0.0.1:1/', 'file:///etc/passwd'])
def test_a_webhook_that_is_not_allowed_is_refused(client, runner, video, url):
  answer = submit(client, video, ['audio'], webhook=url)
  assert answer.status_code == 400
  assert '--allow-webhooks' in answer.json()['error']
  assert not list(runner.folder.iterdir())


def test_cancel_keeps_the_entry_but_no_file(client, runner, video):
  names = [submit(client, video, ['audio']).json()['id'] for _ in range(2)]
  for name in names:
    answer = client.post(f'/v2/generate/{name}/cancel')
    assert answer.json()['status'] in ('CANCELED', 'COMPLETED')
  assert client.get(f'/v2/generate/{names[1]}').json()['status'] == 'CANCELED'
  again = client.post(f'/v2/generate/{names[1]}/cancel')
  assert again.status_code == 200 and again.json()['status'] == 'CANCELED'
  assert client.post('/v2/generate/0/cancel').status_code == 404


def test_the_list_has_pages(client, video):
  bad = [{'start': 0, 'audio': 'voice'}]
  for _ in range(3):
    client.post(
      '/v2/generate',
      files={'video': ('v.mp4', b'no video'), 'voice': ('a.wav', b'no sound')},
      data={'segments': json.dumps(bad)},
    )
  everything = client.get('/v2/generate')
  names = [job['id'] for job in everything.json()]
  assert len(names) == 3 and everything.headers['x-total-count'] == '3'
  for name in names:
    assert wait(client, name)['status'] == 'FAILED'
  pages = [
    client.get('/v2/generate', params={'limit': 2, 'offset': offset})
    for offset in (0, 2, 4)
  ]
  assert [[j['id'] for j in page.json()] for page in pages] == [
    names[:2],
    names[2:],
    [],
  ]
  assert all(page.headers['x-total-count'] == '3' for page in pages)
  for status, count in (('FAILED', 3), ('COMPLETED', 0)):
    found = client.get('/v2/generate', params={'status': status})
    assert len(found.json()) == count


@pytest.mark.parametrize(
  'query', ['limit=-1', 'offset=x', 'limit=٣', 'status=DONE', 'limit=1e3']
)
def test_bad_pages_are_one_line(client, query):
  answer = client.get(f'/v2/generate?{query}')
  assert answer.status_code == 400 and 'expected' in answer.json()['error']


def test_times_of_segments_are_numbers():
  found = submission.read_segments('[{"start": 1, "end": 2.5}]')
  assert found == [{'start': 1, 'end': 2.5, 'audio': None, 'person': 'largest'}]
  with pytest.raises(LipSyncError):
    submission.read_segments('[{"start": 1, "end": 1e9}]')
