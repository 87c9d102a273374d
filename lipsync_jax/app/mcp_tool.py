"""The tool `lip_sync` of `lipsync app --mcp`, for programs that use MCP."""

from lipsync_jax.app import jobs
from lipsync_jax.common.errors import LipSyncError

# One job at a time, as the page's own events.
DEVICE = {'concurrency_id': 'device', 'concurrency_limit': 1}


def add_tool(gr, runner: jobs.JobRunner) -> None:
  """Add the endpoint `/lip_sync` with typed parameters to a page.

  Args:
    gr: the module gradio.
    runner: does the work.
  """

  def lip_sync(
    face: str,
    audio: str,
    person: str = 'auto',
    strength: float = 1.0,
    request: gr.Request = None,
  ) -> str:
    """Make the lips of a person in a video or photo speak a recording.

    Args:
      face: The video or the photo.
      audio: The speech, any file with sound.
      person: Who speaks: auto, largest, left, right, or a number from 0.
      strength: Of the lip motion, 0 to 2; 1 is natural.

    Returns:
      The video, as MP4.
    """
    if not (face and audio):
      raise gr.Error('expected a face and a recording, found one at most')
    user = runner.user(f'mcp {request and request.session_hash}')
    options = {'person': person or 'auto', 'strength': strength}
    work = runner.sync(user, face, audio, False, options, source=False)
    try:
      for news in work:
        if isinstance(news, jobs.Result):
          return news.after
    except (LipSyncError, OSError) as error:
      reason = runner.reason_of(error)
      raise gr.Error(reason, print_exception=False) from error
    raise gr.Error('the job ended without a video')

  with gr.Row(visible=False):
    inputs = [
      gr.File(label='Face'),
      gr.File(label='Speech'),
      gr.Textbox('auto', label='Person'),
      gr.Number(1.0, label='Strength'),
    ]
    output = gr.File(label='Video')
    button = gr.Button('lip_sync')
  button.click(lip_sync, inputs, output, api_name='lip_sync', **DEVICE)
