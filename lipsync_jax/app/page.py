"""The page: components, and what their events do.

Gradio runs a handler for each event. A handler that yields updates the page
while its job runs (`jobs.run_streamed`).
"""

import html
import pathlib
import shutil
from collections.abc import Iterator

from lipsync_jax.app import jobs, mcp_tool
from lipsync_jax.common.errors import Cancelled, LipSyncError
from lipsync_jax.inference.report import Progress

EXAMPLES = pathlib.Path(__file__).parent / 'examples'
DEVICE = {'concurrency_id': 'device', 'concurrency_limit': 1}
TITLE = 'Lip-sync a video or a photo'
INTRODUCTION = f"""# {TITLE}

Give a face and a recording of speech. The lips of the face then speak those
words. Use it for people who agree, and say that the result is generated."""
AUDIO_LONGER = [
  ('play the video to and fro', 'bounce'),
  ('repeat the video', 'loop'),
  ('hold the last frame', 'hold'),
  ('cut the speech', 'cut'),
  ('play the video slower', 'remap'),
]
VIDEO_LONGER = [
  ('end with the speech', 'cut'),
  ('keep the rest of the video', 'keep'),
  ('play the video faster', 'remap'),
]
RENDERERS = [
  ("move the source's own pixels", 'mesh'),
  ('paint the lower face with a network', 'network'),
]
CSS = """
#people .grid-container { padding-top: 2rem; }
.status { padding: 0.75rem 1rem; border-radius: 0.5rem;
  border: 1px solid var(--border-color-primary); }
.status progress { width: 100%; height: 0.75rem; accent-color: #2563eb; }
.status.error { border-color: #dc2626; border-width: 2px; }
"""
PLAY_BOTH = """() => {
  for (const id of ['before', 'after']) {
    const video = document.querySelector(`#${id} video`);
    if (video) { video.currentTime = 0; video.muted = id === 'before';
      video.play(); }
  }
}"""


def launch_options() -> dict:
  """Arguments of `launch` that give the page its look, without any CDN."""
  import gradio as gr

  fonts = ['system-ui', 'sans-serif']
  theme = gr.themes.Default(
    primary_hue='blue', font=fonts, font_mono=['ui-monospace', 'monospace']
  )
  return {
    'theme': theme,
    'css': CSS,
    'share': False,
    'ssr_mode': False,
    'enable_monitoring': False,
    'footer_links': ['api', 'settings'],
    'allowed_paths': [],
  }


def build_page(runner: jobs.JobRunner, mcp: bool = False):
  """The page as `gradio.Blocks`, with the tool of `mcp_tool` if `mcp`."""
  import gradio as gr

  with gr.Blocks(
    title=TITLE, analytics_enabled=False, delete_cache=(3600, 6 * 3600)
  ) as page:
    gr.Markdown(INTRODUCTION)
    inputs = _add_inputs(gr, runner)
    people = _add_people(gr)
    settings = _add_settings(gr)
    with gr.Row():
      preview = gr.Button(f'Preview of {jobs.PREVIEW_SECONDS} seconds')
      whole = gr.Button('Make the whole video', variant='primary')
      cancel = gr.Button('Cancel', variant='stop')
    status = gr.HTML(_status('Choose a face and a recording.'))
    outputs = _add_outputs(gr)
    # An endpoint that is listed would be a tool of MCP.
    listed = 'undocumented' if mcp else 'public'
    _connect(
      gr, runner, inputs, people, settings, outputs, status,
      {'preview': preview, 'whole': whole, 'cancel': cancel}, listed,
    )  # fmt: skip

    def leave(request: gr.Request) -> None:
      runner.forget(request.session_hash)

    page.unload(leave)
    if mcp:
      mcp_tool.add_tool(gr, runner)
  page.queue(max_size=20)
  return page


def _add_inputs(gr, runner: jobs.JobRunner) -> dict:
  """The face and the speech, with an example of each."""
  limits = runner.limits
  gr.Markdown(
    f'A file may have {limits.megabytes} MB and {limits.minutes:g} minutes.'
  )
  with gr.Row():
    with gr.Column(min_width=280):
      face = gr.File(
        label='Face: a video or a photo',
        file_types=['video', 'image'],
        elem_id='face',
      )
      face_example = gr.Button('Use the example face', size='sm')
    with gr.Column(min_width=280):
      audio = gr.Audio(
        label='Speech: a recording, or speak now',
        sources=['upload', 'microphone'],
        type='filepath',
        buttons=['download'],
        elem_id='audio',
      )
      audio_example = gr.Button('Use the example speech', size='sm')
  return {
    'face': face,
    'audio': audio,
    'face_example': face_example,
    'audio_example': audio_example,
  }


def _add_people(gr) -> dict:
  """Thumbnails of the people found, and who speaks."""
  gallery = gr.Gallery(
    label='People found: choose who speaks',
    columns=6,
    fit_columns=False,
    height=260,
    allow_preview=False,
    object_fit='contain',
    buttons=[],
    interactive=False,
    elem_id='people',
  )
  who = gr.Radio(label='Who speaks', choices=[], elem_id='who')
  search = gr.Button('Search the whole video for people', size='sm')
  with gr.Accordion('A second voice', open=False):
    second = gr.Radio(label='Who speaks it', choices=[])
    second_audio = gr.Audio(
      label='Second speech',
      sources=['upload', 'microphone'],
      type='filepath',
      buttons=['download'],
    )
  return {
    'gallery': gallery,
    'known': gr.State([]),
    'who': who,
    'search': search,
    'second': second,
    'second_audio': second_audio,
  }


def _add_settings(gr) -> dict:
  """Options of `SyncOptions` by their names."""
  with gr.Accordion('Settings', open=False):
    strength = gr.Slider(
      0, 2, value=1, step=0.1, label='Strength',
      info='Of the lip motion: 0 leaves the lips, 1 is natural.',
    )  # fmt: skip
    renderer = gr.Radio(RENDERERS, value='mesh', label='Renderer')
    with gr.Row():
      since = gr.Number(value=0, minimum=0, label='From second')
      until = gr.Number(
        value=0, minimum=0, label='To second', info='0: to the end.'
      )
    audio_longer = gr.Radio(
      AUDIO_LONGER, value='bounce', label='If the speech is longer',
      info='A preview keeps the speed of the video.',
    )  # fmt: skip
    video_longer = gr.Radio(
      VIDEO_LONGER, value='cut', label='If the video is longer'
    )
    profile = gr.File(
      label='Profile of a person, made by lipsync finetune',
      file_types=['.safetensors'],
      height=120,
      elem_id='profile',
    )
  return {
    'strength': strength,
    'renderer': renderer,
    'since': since,
    'until': until,
    'when_audio_longer': audio_longer,
    'when_video_longer': video_longer,
    'profile': profile,
  }


def _add_outputs(gr) -> dict:
  """Players of the source and the output, the file, and the report."""
  with gr.Row():
    before = gr.Video(label='Before', interactive=False, elem_id='before')
    after = gr.Video(label='After', interactive=False, elem_id='after')
  both = gr.Button('Play both from the start', size='sm')
  both.click(None, js=PLAY_BOTH)
  download = gr.DownloadButton(
    'Download the result', interactive=False, elem_id='download'
  )
  report = gr.Markdown(elem_id='report')
  return {
    'before': before,
    'after': after,
    'download': download,
    'report': report,
  }


def _connect(
  gr, runner, inputs, people, settings, outputs, status, buttons, listed: str
) -> None:
  """Connect the events.

  Args:
    listed: gradio's `api_visibility` of the endpoints for programs.
  """
  found = [people[name] for name in ('gallery', 'known', 'who', 'second')]
  found.append(status)
  searches = [
    inputs['face'].change(
      _people_handler(gr, runner, whole=False), inputs['face'], found,
      show_progress_on=status, api_name='people', api_visibility=listed,
      **DEVICE,
    ),
    people['search'].click(
      _people_handler(gr, runner, whole=True), inputs['face'], found,
      show_progress_on=status, api_name='all_people', api_visibility=listed,
      **DEVICE,
    ),
  ]  # fmt: skip
  people['gallery'].select(
    _choose_handler(gr), people['known'], people['who'], queue=False,
    api_visibility='private',
  )  # fmt: skip
  for name, file in (('face', 'mona.jpg'), ('audio', 'jfk.flac')):
    inputs[f'{name}_example'].click(
      _example_handler(gr, runner, file), None, inputs[name], queue=False,
      api_visibility='private',
    )  # fmt: skip
  given = [
    inputs['face'], inputs['audio'], people['who'], people['second'],
    people['second_audio'], *settings.values(),
  ]  # fmt: skip
  shown = [*outputs.values(), status]
  runs = [
    buttons[name].click(
      _sync_handler(gr, runner, list(settings), preview=name == 'preview'),
      given, shown, show_progress_on=status, api_name=name,
      api_visibility=listed, **DEVICE,
    )
    for name in ('preview', 'whole')
  ]  # fmt: skip

  def cancel(request: gr.Request) -> str:
    runner.user(request.session_hash).cancel()
    return _status('Cancelled. Nothing was kept.')

  buttons['cancel'].click(
    cancel, None, status, queue=False, cancels=[*searches, *runs],
    api_name='cancel', api_visibility=listed,
  )  # fmt: skip


def _people_handler(gr, runner: jobs.JobRunner, whole: bool):
  """Handler: a face -> thumbnails, choices and the status."""

  def find(face: str | None, request: gr.Request) -> Iterator:
    nobody = gr.Radio(choices=[], value=None)
    if not face:
      yield [], [], nobody, nobody, _status('Choose a face.')
      return
    user = runner.user(request.session_hash)
    skip = [gr.skip()] * 4
    try:
      for news in runner.find_people(user, face, whole):
        if isinstance(news, Progress):
          yield *skip, _progress(news)
          continue
        choices = [(f'Person {one.number}', one.person) for one in news]
        pictures = [(one.picture, f'Person {one.number}') for one in news]
        chosen = gr.Radio(choices=choices, value=news[0].person)
        second = gr.Radio(choices=choices, value=None)
        count = '1 person' if len(news) == 1 else f'{len(news)} people'
        known = [one.person for one in news]
        yield pictures, known, chosen, second, _status(f'{count} found.')
    except Cancelled:
      yield *skip, _status('Cancelled. Nothing was kept.')
    except (LipSyncError, OSError) as error:
      words = _status(runner.reason_of(error), error=True)
      yield [], [], nobody, nobody, words

  return find


def _choose_handler(gr):
  """Handler: a click on a thumbnail -> who speaks."""

  def choose(specifications: list[str], event: gr.SelectData) -> str:
    return specifications[event.index]

  return choose


def _example_handler(gr, runner: jobs.JobRunner, name: str):
  """Handler: nothing -> a copy of an example in the user's folder."""

  def copy(request: gr.Request) -> str:
    path = runner.user(request.session_hash).new_file(name)
    return shutil.copy(EXAMPLES / name, path)

  return copy


def _sync_handler(gr, runner: jobs.JobRunner, names: list[str], preview: bool):
  """Handler: all inputs -> players, file, report and status."""

  def sync(
    face: str | None,
    audio: str | None,
    who: str | None,
    second: str | None,
    second_audio: str | None,
    request: gr.Request,
    *values,
  ) -> Iterator:
    skip = [gr.skip()] * 4
    if not (face and audio):
      missing = 'a recording' if face else 'a face'
      yield *skip, _status(f'Choose {missing} first.', error=True)
      return
    options = dict(zip(names, values, strict=True)) | {'person': who or '0'}
    options['since'] = options['since'] or 0.0
    options['until'] = options['until'] or None
    if preview:  # the speed follows from the length of the whole sound
      for name in ('when_audio_longer', 'when_video_longer'):
        if options[name] == 'remap':
          options[name] = 'cut'
    if second and second_audio:
      options['audio_for'] = [(second, second_audio)]
    user = runner.user(request.session_hash)
    try:
      for news in runner.sync(user, face, audio, preview, options):
        if isinstance(news, Progress):
          yield *skip, _progress(news)
          continue
        words = jobs.describe_report(news.report)
        button = gr.DownloadButton(value=news.after, interactive=True)
        yield news.before, news.after, button, words, _status('Done.')
    except Cancelled:
      yield *skip, _status('Cancelled. Nothing was kept.')
    except (LipSyncError, OSError) as error:
      yield *skip, _status(runner.reason_of(error), error=True)

  return sync


def _status(text: str, error: bool = False, share: float | None = None) -> str:
  """The line that tells the state, read aloud by screen readers."""
  role, kind = ('alert', ' error') if error else ('status', '')
  bar = ''
  if share is not None:
    bar = f'<progress value="{share:.3f}" max="1"></progress>'
  words = f'<strong>Error:</strong> {html.escape(text)}' if error else text
  words = words if error else html.escape(text)
  return f'<div class="status{kind}" role="{role}">{words}{bar}</div>'


def _progress(news: Progress) -> str:
  return _status(jobs.describe_progress(news), share=news.share or 0.0)
