"""Jobs over HTTP, without a network."""

import json
import pathlib
import time

import pytest

from lipsync_jax import __main__ as command
from lipsync_jax.app import jobs, serve_cli
from tests.helpers import test_clips

pytest.importorskip('starlette', reason='needs the extra [app]')
pytest.importorskip('httpx', reason='needs the extra [app]')
from starlette.testclient import TestClient

from lipsync_jax.app import job_table, server, submission

EXAMPLES = pathlib.Path(jobs.__file__).parent / 'examples'
FACE, SPEECH = EXAMPLES / 'mona.jpg', EXAMPLES / 'jfk.flac'


@pytest.fixture(scope='module')
def runner(tmp_path_factory):
  limits = jobs.Limits(megabytes=2, minutes=0.5)
  found = jobs.JobRunner(limits, str(tmp_path_factory.mktemp('s') / 'jobs'))
  yield found
  found.close()


@pytest.fixture
def client(runner):
  with TestClient(server.build_app(server.JobTable(runner, 3))) as found:
    yield found
  assert list(runner.folder.iterdir()) == []  # closed with the server


def submit(client, options=None, face=FACE, audio=SPEECH, **more):
  files = {'video': (face.name, face.read_bytes())}
  files['audio'] = (audio.name, audio.read_bytes())
  data = {'options': json.dumps(options)} if options is not None else {}
  return client.post('/v2/generate', files=files, data=data, **more)


def wait(client, name: str) -> dict:
  while True:
    found = client.get(f'/v2/generate/{name}').json()
    if found['status'] in job_table.ENDED:
      return found
    time.sleep(0.05)


def test_submit_status_result_and_list(client, tmp_path):
  answer = submit(client, {'preview': 0.4, 'sync_mode': 'loop'})
  assert answer.status_code == 201
  name = answer.json()['id']
  assert answer.json()['status'] in ('PENDING', 'PROCESSING')
  found = wait(client, name)
  assert found['status'] == 'COMPLETED' and found['report']['frames'] == 10
  assert str(tmp_path.parent) not in json.dumps(found)  # no path of the server
  out = client.get(found['output_url'])
  (tmp_path / 'o.mp4').write_bytes(out.content)
  assert len(test_clips.read_video(tmp_path / 'o.mp4')[0]) == 10
  assert [job['id'] for job in client.get('/v2/generate').json()] == [name]
  assert client.delete(f'/v2/generate/{name}').status_code == 200
  assert client.get(f'/v2/generate/{name}').status_code == 404
  assert client.get('/v2/generate').json() == []


def test_cancel_deletes_the_files(client, runner):
  name = submit(client).json()['id']
  while client.get(f'/v2/generate/{name}').json()['status'] == 'PENDING':
    time.sleep(0.02)
  early = client.get(f'/v2/generate/{name}/output')
  assert early.status_code == 409
  assert client.delete(f'/v2/generate/{name}').json()['status'] == 'CANCELED'
  assert not list(runner.folder.iterdir())


def test_a_job_without_a_face_fails_with_the_reason(client, tmp_path):
  import cv2
  import numpy as np

  cv2.imwrite(str(tmp_path / 'gray.png'), np.full((64, 64, 3), 99, np.uint8))
  name = submit(client, face=tmp_path / 'gray.png').json()['id']
  found = wait(client, name)
  assert found['status'] == 'FAILED' and 'no face' in found['error']
  assert 'output_url' not in found


@pytest.mark.parametrize(
  'options, said',
  [
    ({'sync_mode': 'stretch'}, 'sync_mode: expected'),
    ({'outfile': '/etc/passwd'}, "found 'outfile'"),
    ({'final_audio': '/etc/passwd'}, "found 'final_audio'"),
    ([1], 'expected an object'),
  ],
)
def test_bad_options_are_one_line(client, runner, options, said):
  answer = submit(client, options)
  assert answer.status_code == 400 and said in answer.json()['error']
  assert not list(runner.folder.iterdir())


def test_a_missing_file_is_one_line(client):
  files = {'video': ('a.mp4', b'x')}
  answer = client.post('/v2/generate', files=files)
  assert answer.status_code == 400 and 'audio' in answer.json()['error']


def test_large_requests_are_refused_before_they_are_read(client):
  files = {'video': ('a.mp4', bytes(6 * 2**20))}
  assert client.post('/v2/generate', files=files).status_code == 413


def test_a_third_and_a_fourth_job_wait_or_are_refused(client):
  answers = [submit(client, {'preview': 2}) for _ in range(4)]
  assert [a.status_code for a in answers] == [201, 201, 201, 400]
  assert 'at most 3' in answers[3].json()['error']


def test_the_token_is_asked_for(runner):
  app = server.build_app(server.JobTable(runner), token='secret')
  with TestClient(app) as client:
    assert client.get('/health').status_code == 200
    assert client.get('/v2/generate').status_code == 401
    wrong = {'x-api-key': 'sesame'}
    assert client.get('/v2/generate', headers=wrong).status_code == 401
    for headers in (
      {'x-api-key': 'secret'},
      {'Authorization': 'Bearer secret'},
    ):
      assert client.get('/v2/generate', headers=headers).status_code == 200


def test_other_computers_need_a_token(monkeypatch, capsys):
  monkeypatch.delenv('LIPSYNC_TOKEN', raising=False)
  assert command.main(['serve', '--host', '0.0.0.0']) == 1
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'LIPSYNC_TOKEN' in line
  assert serve_cli.build_parser().parse_args([]).host == '127.0.0.1'


def test_modes_are_options():
  for mode, expected in submission.SYNC_MODES.items():
    found = submission.read_options(json.dumps({'sync_mode': mode, 'crf': 20}))
    assert found == expected | {'crf': 20}
