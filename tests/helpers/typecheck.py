"""The checker of signatures in tests: an int passes where a float is asked."""

import beartype

typechecked = beartype.beartype(
  conf=beartype.BeartypeConf(is_pep484_tower=True)
)
