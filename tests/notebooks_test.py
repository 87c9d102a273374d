"""Both notebooks run from the first cell to the last."""

import pathlib

import pytest

from tests.helpers import untrained_weights

BOOKS = pathlib.Path(__file__).parents[1] / 'notebooks'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['quickstart', 'training'])
def test_notebook(name, tmp_path):
  nbclient = pytest.importorskip('nbclient')
  import nbformat

  book = nbformat.read(BOOKS / f'{name}.ipynb', as_version=4)
  path = untrained_weights.save(tmp_path / 'w.safetensors')
  # The notebook's own folder is found from the working folder.
  start = f'import os\nos.chdir({str(tmp_path)!r})\n'
  for cell in book.cells:
    source = cell.source
    if 'pathlib.Path.cwd()' in source:
      cell.source = start + source.replace(
        'pathlib.Path.cwd()', f'pathlib.Path({str(BOOKS)!r})'
      )
    cell.source = cell.source.replace('seconds = 4', 'seconds = 1')
    cell.source = cell.source.replace(
      '# config.num_train_steps = 400', 'config.num_train_steps = 10 #'
    )
    cell.source = cell.source.replace('weights = None', f'weights = {path!r}')
  client = nbclient.NotebookClient(book, timeout=600, kernel_name='python3')
  client.execute()
  kinds = {
    kind
    for cell in book.cells
    for output in cell.get('outputs', [])
    for kind in output.get('data', {})
  }
  assert kinds & ({'text/html'} if name == 'quickstart' else {'image/png'})
