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
    modules: exported names by the submodule that defines them. A name that
      equals its submodule exports the submodule itself.

  Returns:
    `__all__`, `__getattr__` and `__dir__`.
  """
  module_of = {
    name: module for module, names in modules.items() for name in names
  }

  def get(name: str) -> object:
    if name not in module_of:
      raise AttributeError(f'module {package!r} has no attribute {name!r}')
    module = importlib.import_module(f'{package}.{module_of[name]}')
    value = module if name == module_of[name] else getattr(module, name)
    setattr(sys.modules[package], name, value)
    return value

  names = sorted(module_of)
  return names, get, lambda: names
