"""The web page and the HTTP server, with the extra `[app]`.

`jobs` does the work in one `Session` and knows no web library. `page` is the
page and `cli` starts it (`lipsync app`); `mcp_tool` is its tool for MCP.
`server` is the server and `serve_cli` starts it (`lipsync serve`);
`submission` reads a request, `job_table` holds the jobs and `webhooks` calls
URLs. `termination` ends both commands after SIGTERM.
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'jobs': ['JobRunner', 'Limits'],
    'page': ['build_page', 'launch_options'],
  },
)
