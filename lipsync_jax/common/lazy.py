"""Package exports that are imported on first use (PEP 562).

`import lipsync_jax` stays fast: a module is imported when one of its names is
first used.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


def lazy_exports(
  package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
  """Build a package's `__all__`, `__getattr__` and `__dir__`.

  Args:
    package: `__name__` of the package.
    modules: exported names by the submodule that defines them. 'a=b' exports
      `b` as `a`. A name that equals its submodule exports the submodule.

  Returns:
    `__all__`, `__getattr__` and `__dir__`.
  """
  sources = {}  # exported name -> (submodule, name there)
  for module, entries in modules.items():
    for entry in entries:
      name, _, original = entry.partition('=')
      sources[name] = module, original or name

  def get(name: str) -> object:
    if name not in sources:
      raise AttributeError(f'module {package!r} has no attribute {name!r}')
    submodule, original = sources[name]
    module = importlib.import_module(f'{package}.{submodule}')
    value = module if name == submodule else getattr(module, original)
    setattr(sys.modules[package], name, value)
    return value

  names = sorted(sources)
  return names, get, lambda: names
