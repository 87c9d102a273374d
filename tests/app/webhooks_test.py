"""Webhooks, against a receiver on this computer."""

import contextlib
import json
import threading
import time

import pytest

from lipsync_jax.app import serve_cli, webhooks
from lipsync_jax.common.errors import LipSyncError
from tests.helpers.webhook_receiver import receiver


def call(address: str, facts: dict, timeout=10.0, waits=(0, 0, 0)) -> bool:
  """Whether a webhook was delivered."""
  sender = webhooks.WebhookSender(
    webhooks.parse_hosts(address), 'secret', timeout, waits
  )
  url = f'http://{address}/done?x=1'
  sender.check(url)
  results, ended = [], threading.Event()
  sender.send(url, facts, lambda found: (results.append(found), ended.set()))
  assert ended.wait(60)
  sender.close()
  return results[0]


def test_the_body_is_signed():
  with receiver(204) as (address, received):
    assert call(address, {'id': 'a', 'status': 'COMPLETED'})
  [(path, headers, body)] = received
  assert path == '/done?x=1'
  assert json.loads(body) == {'id': 'a', 'status': 'COMPLETED'}
  assert headers['content-type'] == 'application/json'
  assert headers[webhooks.SIGNATURE] == webhooks.sign('secret', body)
  assert webhooks.sign('other', body) != webhooks.sign('secret', body)


def test_the_signature_is_the_standard_one():
  # RFC 4231, test case 2.
  assert webhooks.sign('Jefe', b'what do ya want for nothing?') == (
    'sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843'
  )


@pytest.mark.parametrize(
  'answers, delivered, calls',
  [
    ([500, 503, 200], True, 3),
    ([500], False, 4),  # and three retries
    ([429, 200], True, 2),
    ([404], False, 1),
    ([302], False, 1),  # not followed
    ([307], False, 1),
  ],
)
def test_attempts(answers, delivered, calls):
  with receiver(*answers) as (address, received):
    assert call(address, {}) is delivered
  assert len(received) == calls
  assert {path for path, *_ in received} == {'/done?x=1'}


@pytest.mark.parametrize('drips', [False, True])
def test_a_slow_receiver_is_given_up(drips):
  released = threading.Event()

  def stall(handler):
    while not released.wait(0.05):
      with contextlib.suppress(OSError):
        if drips:  # every read of the status line ends in time
          handler.wfile.write(b'H')
          handler.wfile.flush()

  with receiver(stall) as (address, received):
    assert not call(address, {}, timeout=0.3, waits=(0,))
    assert len(received) == 2
    released.set()


def test_send_returns_before_the_receiver_answers():
  released, noted = threading.Event(), threading.Event()
  with receiver(lambda handler: released.wait(60)) as (address, received):
    sender = webhooks.WebhookSender(webhooks.parse_hosts(address), 'secret')
    for _ in range(9):
      sender.send(f'http://{address}/', {}, lambda found: noted.set())
    while len(received) < webhooks.THREADS:
      time.sleep(0.01)
    assert not noted.is_set()
    sender.close()
    released.set()


def test_nobody_listens():
  with receiver(200) as (address, _):
    pass
  assert not call(address, {})


@pytest.mark.parametrize(
  'url',
  [
    'http://good.example/a',
    'https://good.example:443/a?b=c',
    'http://GOOD.example:80',
    'http://port.example:8080/x',
    'http://[::1]:90/',
  ],
)
def test_listed_addresses(url):
  text = 'good.example, port.example:8080,[::1]:90'
  webhooks.check_url(url, webhooks.parse_hosts(text))


@pytest.mark.parametrize(
  'url',
  [
    'http://127.0.0.1/',
    'http://169.254.169.254/latest/meta-data',
    'http://good.example.evil/',
    'http://sub.good.example/',
    'http://good.example:22/',
    'http://good.example@127.0.0.1/',
    'http://127.0.0.1\\@good.example/',
    'http://good.example\t.evil/',
    'http://good.example /',
    'http://port.example/',
    'http://good.example:99999/',
    'file:///etc/passwd',
    'gopher://good.example/',
    '//good.example/',
    'good.example',
    'http://good.example/' + 2000 * 'a',
  ],
)
def test_other_addresses_are_one_line(url):
  allowed = webhooks.parse_hosts('good.example,port.example:8080')
  with pytest.raises(LipSyncError, match='webhook: expected') as caught:
    webhooks.check_url(url, allowed)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 240


def test_nothing_is_allowed_unless_listed():
  with pytest.raises(LipSyncError, match='--allow-webhooks'):
    webhooks.check_url('http://good.example/', webhooks.parse_hosts(''))


@pytest.mark.parametrize('text', ['a/b', 'http://a', 'u@a', 'a:x', 'a:99999'])
def test_bad_hosts_are_one_line(text):
  with pytest.raises(LipSyncError, match='--allow-webhooks: expected'):
    webhooks.parse_hosts(text)


@pytest.mark.parametrize('secret, found', [('', 'none'), ('same', 'TOKEN')])
def test_webhooks_need_a_key_of_their_own(monkeypatch, capsys, secret, found):
  pytest.importorskip('starlette', reason='needs the extra [app]')
  monkeypatch.setenv('LIPSYNC_TOKEN', 'same')
  monkeypatch.setenv('LIPSYNC_WEBHOOK_SECRET', secret)
  assert serve_cli.main(['--allow-webhooks', 'good.example']) == 1
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'LIPSYNC_WEBHOOK_SECRET' in line
  assert line.rstrip().endswith(found)
