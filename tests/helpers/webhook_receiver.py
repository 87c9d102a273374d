"""A server on this computer that receives webhooks."""

import contextlib
import http.server
import threading


@contextlib.contextmanager
def receiver(*answers):
  """A server that gives `answers` in turn, the last one for ever.

  An answer is a status, or a function that is called with the handler.
  Yields the address and the list of (path, headers, body) received.
  """
  received = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      body = self.rfile.read(int(self.headers['content-length']))
      answer = answers[min(len(received), len(answers) - 1)]
      received.append((self.path, self.headers, body))
      if callable(answer):
        answer(self)
        return
      self.send_response(answer)
      self.send_header('Location', '/elsewhere')
      self.end_headers()

    do_GET = do_POST

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
      yield f'127.0.0.1:{server.server_port}', received
    finally:
      server.shutdown()
      thread.join()
